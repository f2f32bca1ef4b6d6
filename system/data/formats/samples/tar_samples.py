"""Samples of webdataset tars: members that share a key, found without unpacking the tar."""

import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import IO, Any

from system.data.prepare.image_files import StoredImage
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError
from system.storage.foreign_json import parse_json

#: Suffixes of images; the first that a sample has is its image, as in OpenCLIP.
IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp", "bmp")

_PACKED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_BLOCK = tarfile.BLOCKSIZE
_MAX_TEXT_BYTES = 16 << 20  # of a caption or its JSON; no image is held
_MAX_TARS = 1_000_000
_COUNTED = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?\d+)?\}")
_META = re.compile(r"(^|/)__[^/]*__($|/)")  # webdataset's own members


@dataclass(frozen=True, slots=True)
class TarSample:
    """One image of a tar with what stands beside it under the same key.

    `text` is the content of the member `.txt`, `fields` that of `.json`; `where` names the tar and
    the key for messages.
    """

    where: str
    file_name: str
    image: StoredImage
    text: str | None
    fields: Mapping[str, object]


def find_tars(root: Path, patterns: tuple[str, ...], field: str) -> list[Path]:
    """Find the tars that patterns name: paths relative to `root`, brace ranges, `*` and `**`.

    `field` is the config field of the patterns; `::` parts several in one text, as in OpenCLIP.
    Raises: ConfigError for an address that is no path, unbalanced braces, a range without end, or
    a tar that is named twice; DataError for a file that does not exist.
    """
    found: dict[Path, None] = {}
    for path in listed_tars(root, patterns, field):
        if not path.is_file():
            raise DataError(f"{field}: {path} does not exist: correct this field")
        if path in found:
            raise ConfigError(f"{field}: {path} is named twice")
        found[path] = None
    return list(found)


def listed_tars(root: Path, patterns: tuple[str, ...], field: str) -> list[Path]:
    """List the tars that patterns name, also those that are not there. Raises: ConfigError."""
    return [
        path
        for pattern in patterns
        for part in pattern.split("::")
        for name in _expanded(part, field)
        for path in _matching(root, name)
    ]


def _expanded(pattern: str, field: str) -> list[str]:
    pattern = re.sub(r"^file:(//(localhost)?(?=/))?", "", pattern)
    if re.match(r"[a-z][a-z0-9+.-]*://|pipe:", pattern):
        raise ConfigError(
            f"{field}: {pattern} is no path: fetch the tars first (such as with `hf download` or "
            "`wget`) and name them by their paths"
        )
    size = 1
    for first, last in _COUNTED.findall(pattern):
        size *= abs(int(last) - int(first)) + 1
    if size > _MAX_TARS:
        raise ConfigError(f"{field}: {pattern} names {size} tars: correct the range in braces")
    try:
        # What webdataset expands braces by; that library itself imports torch.
        return list(_library("braceexpand").braceexpand(pattern))
    except ValueError as error:
        raise ConfigError(f"{field}: {pattern} cannot be expanded ({error})") from error


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"benchmark.dataset=webdataset needs the package webdataset ({error}): "
            "pip install 'promptide[hub]'"
        ) from error


def _matching(root: Path, name: str) -> list[Path]:
    if not any(sign in name for sign in "*?["):
        return [root / name]
    base, relative = root, name
    if os.path.isabs(name):
        base, relative = Path(Path(name).anchor), name.lstrip("/")
    return sorted(path for path in base.glob(relative) if path.is_file()) or [root / name]


def tar_samples(path: Path, split: str, faults: Faults) -> Iterator[TarSample]:
    """Go through a tar's samples, in its order.

    A sample that cannot be used is a broken row of its own, and so is what cannot be read of the
    tar: samples before that place are taken.
    """
    with faults.row(split, str(path)), _opened(path) as (tar, stream):
        yield from _samples(path, tar, stream, split, faults)
        _check_behind(path, tar, stream)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tarfile.TarFile, IO[bytes]]]:
    try:
        with path.open("rb") as stream:
            _check_start(path, stream)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                yield tar, stream
    except DataError:
        raise
    # A damaged header may raise nearly anything from inside tarfile.
    except Exception as error:
        raise DataError(f"{path}: cannot be read as a tar ({error}): fetch it again") from error


def _check_start(path: Path, stream: IO[bytes]) -> None:
    start = stream.read(_BLOCK)
    stream.seek(0)
    for magic, program in _PACKED.items():
        if start.startswith(magic):
            raise DataError(
                f"{path}: is compressed, so that no image can be read without all before it: "
                f"unpack it ({program} {path.name})"
            )


def _check_end(path: Path, tar: tarfile.TarFile, stream: IO[bytes]) -> None:
    """Refuse a tar that tarfile read as far as it could, which it does not tell."""
    stream.seek(tar.offset)
    block = stream.read(_BLOCK)
    if not block:
        raise DataError(f"{path}: has no end mark, as if cut off: fetch it again")
    if any(block):
        raise DataError(f"{path}: is damaged at byte {tar.offset}: fetch it again")


def _check_behind(path: Path, tar: tarfile.TarFile, stream: IO[bytes]) -> None:
    stream.seek(tar.offset)
    while block := stream.read(1 << 20):
        if any(block):
            raise DataError(
                f"{path}: has something behind its end mark (after byte {tar.offset}): if it is "
                "several tars in one file, write them apart"
            )


@dataclass(slots=True)
class _Members:
    """The members of a key so far, by their suffixes in lower case."""

    key: str
    found: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    twice: str | None = None


def _samples(
    path: Path, tar: tarfile.TarFile, stream: IO[bytes], split: str, faults: Faults
) -> Iterator[TarSample]:
    parted = _library("webdataset.tariterators").base_plus_ext
    size = os.fstat(stream.fileno()).st_size
    keys: set[str] = set()
    members: _Members | None = None
    for member in _files(path, tar):
        key, suffix = parted(member.name)
        if key is None:  # no suffix
            continue
        if members is None or key != members.key:
            if members is not None:
                yield from _sample(path, members, keys, size, stream, split, faults)
            members = _Members(key)
        if suffix.lower() in members.found:
            members.twice = member.name
        members.found[suffix.lower()] = member
    _check_end(path, tar, stream)  # or the last sample may lack some of its members
    if members is not None:
        yield from _sample(path, members, keys, size, stream, split, faults)


def _files(path: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    end = -1
    while (member := tar.next()) is not None:
        # Or each member would stay in memory.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.size < 0 or tar.offset <= end:
            raise DataError(f"{path}: is damaged at byte {member.offset}: fetch it again")
        end = tar.offset
        hidden = member.name.rpartition("/")[2].startswith(".")
        if not (member.isdir() or hidden or _META.search(member.name)):
            yield member


def _sample(
    path: Path,
    members: _Members,
    keys: set[str],
    size: int,
    stream: IO[bytes],
    split: str,
    faults: Faults,
) -> Iterator[TarSample]:
    """Check a key's members; nothing comes back if they are broken."""
    where = f"{path}: {members.key}"
    found: list[TarSample] = []
    with faults.row(split, f"{path.name}/{members.key}"):
        if members.twice is not None:
            raise DataError(f"{path}: member {members.twice!r} is there twice", "key used twice")
        if members.key in keys:
            raise DataError(
                f"{where}: the key is used twice: members of a sample must follow each other",
                "key used twice",
            )
        keys.add(members.key)
        for member in members.found.values():
            _check_member(path, member, size)
        image = next((members.found[s] for s in IMAGE_SUFFIXES if s in members.found), None)
        if image is None:
            raise DataError(
                f"{where}: has no image, only {', '.join(sorted(members.found))}: "
                f"{', '.join(IMAGE_SUFFIXES)} are read",
                "missing image",
            )
        text, fields = (members.found.get(suffix) for suffix in ("txt", "json"))
        found.append(
            TarSample(
                where,
                PurePosixPath(image.name).as_posix(),
                StoredImage(path, image.offset_data, image.size),
                None if text is None else _text(path, text, stream),
                {} if fields is None else _object(path, fields, stream),
            )
        )
    yield from found


def _check_member(path: Path, member: tarfile.TarInfo, size: int) -> None:
    name = member.name
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise DataError(f"{path}: the name of member {member.name!r} leaves the tar", "path")
    if member.issym() or member.islnk():
        raise DataError(f"{path}: member {member.name!r} is a link: store the file itself", "path")
    if not member.isreg() or member.issparse():
        raise DataError(f"{path}: member {member.name!r} is no plain file: store it as one")
    if member.offset_data + member.size > size:
        raise DataError(
            f"{path}: ends within member {member.name!r}: fetch it again, it is cut off"
        )


def _text(path: Path, member: tarfile.TarInfo, stream: IO[bytes]) -> str:
    if member.size > _MAX_TEXT_BYTES:
        raise DataError(f"{path}: member {member.name!r} has {member.size} bytes, which is no text")
    stream.seek(member.offset_data)
    try:
        return stream.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: member {member.name!r} is no UTF-8 ({error})", "text") from error


def _object(path: Path, member: tarfile.TarInfo, stream: IO[bytes]) -> Mapping[str, object]:
    try:
        content = parse_json(_text(path, member, stream))
    except ValueError as error:
        raise DataError(f"{path}: member {member.name!r} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: member {member.name!r} is {type(content).__name__}, no object")
    return content
