"""Where the images of a data set lie, and how their encoded bytes are read."""

import os
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

from system.errors import DataError


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Place of one image's encoded bytes: a file, or `length` bytes of one from `start` on.

    A reader of tables takes `start` as the number of the image's row.
    """

    path: Path
    start: int = 0
    length: int | None = None


class ImageReader(Protocol):
    """Reads images by their place; several threads may call it."""

    def stamp(self, image: StoredImage) -> tuple[int, int]:
        """Return the image's size in bytes and when its file was changed. Raises: OSError."""
        ...

    def read(self, image: StoredImage) -> bytes:
        """Return the encoded bytes. Raises: OSError."""
        ...


class _Files:
    """Images that are files, or stretches of files."""

    def stamp(self, image: StoredImage) -> tuple[int, int]:
        status = image.path.stat()
        size = status.st_size if image.length is None else image.length
        return size, status.st_mtime_ns

    def read(self, image: StoredImage) -> bytes:
        if image.length is None and not image.start:
            return image.path.read_bytes()
        with image.path.open("rb") as stream:
            stream.seek(image.start)
            data = stream.read(-1 if image.length is None else image.length)
        if image.length is not None and len(data) != image.length:
            raise OSError(f"ends before byte {image.start + image.length}")
        return data


#: Of data sets whose images lie on disk.
FILES: ImageReader = _Files()


def safe_image_path(
    folder: Path, file_name: str, where: str, *, follow_links: bool = False
) -> Path:
    """Return the path of an annotated image inside its folder.

    A name composed in Unicode finds a file whose name is decomposed, as macOS has them, and the
    other way round. With `follow_links` a symbolic link may lead out of the folder.
    Raises: DataError naming the annotation if the name is absolute, climbs out of the folder
    (`..`, a symbolic link) or no file of that name exists.
    """
    parts = _inside(file_name)
    if parts is None:
        raise DataError(
            f"{where}: field 'file_name' {file_name!r} leaves the image folder {folder}: give "
            "names relative to it",
            "path",
        )
    path = _find(folder, parts)
    if path is None:
        raise DataError(
            f"{where}: the image {folder.joinpath(*parts)} does not exist: "
            f"{_near(folder, parts) or _elsewhere(folder, parts)}",
            "missing image",
        )
    if not follow_links and not _resolved(path).is_relative_to(_resolved_folder(folder)):
        raise DataError(
            f"{where}: field 'file_name' {file_name!r} is a link that leaves the image folder "
            f"{folder}: set benchmark.options.follow_links=true to follow such links",
            "path",
        )
    return path


def find_image(folder: Path, file_name: str) -> Path | None:
    """Return the file of a name in either Unicode form, None if it is not there or not inside."""
    parts = _inside(file_name)
    return None if parts is None else _find(folder, parts)


def _find(folder: Path, parts: tuple[str, ...]) -> Path | None:
    path = folder.joinpath(*parts)
    if not os.path.isfile(path):  # Path.is_file would raise for a name that is too long
        path = _of_other_form(folder, parts)
    return path if os.path.isfile(path) else None


def _inside(file_name: str) -> tuple[str, ...] | None:
    """Return the parts of a relative name, None for one that leaves the folder it starts in."""
    path = PurePosixPath(file_name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in file_name:
        return None
    return path.parts


def _of_other_form(folder: Path, parts: tuple[str, ...]) -> Path:
    """Find names that differ in Unicode form only; the path as given where there are none."""
    path = folder
    for part in parts:
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        path = next((path / form for form in forms if os.path.lexists(path / form)), path / part)
    return path


def _near(folder: Path, parts: tuple[str, ...]) -> str | None:
    """Say what is there instead of a missing image, such as its name in another case."""
    path = folder
    for part in parts:
        if os.path.lexists(path / part):
            path /= part
            continue
        try:
            names = _names(path, path.stat().st_mtime_ns)
        except OSError:
            return None
        forms = (part, *(part + suffix for suffix in (".jpg", ".jpeg", ".png")))
        there = next((names[key] for key in map(_folded, forms) if key in names), None)
        if there is None:
            return None
        path /= there
    name = path.relative_to(folder).as_posix()
    if path.is_symlink():
        return f"{name!r} is a link to {os.readlink(path)}, which is not there"
    if not os.path.isfile(path):
        return f"{name!r} is no file"
    return f"it is there as {name!r}: write the name as the file has it"


def _elsewhere(folder: Path, parts: tuple[str, ...]) -> str:
    """Say what to do about a missing image that may be in a folder below."""
    for name in _folders(folder):
        if os.path.isfile(folder.joinpath(name, *parts)):
            return f"it is in folder {name!r} of that one: correct the image folder"
    return "fetch the images or correct the image folder"


@lru_cache(maxsize=8)
def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())[:100]


@lru_cache(maxsize=8)
def _names(folder: Path, changed: int) -> dict[str, str]:
    """List a folder's names by their folded form; `changed` tells a folder that is another now."""
    return {_folded(name): name for name in os.listdir(folder)}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _resolved(path: Path) -> Path:
    # All images of a folder share its own resolution, which takes several system calls.
    folder = _resolved_folder(path.parent)
    return path.resolve() if path.is_symlink() else folder / path.name


@lru_cache(maxsize=1024)
def _resolved_folder(folder: Path) -> Path:
    return folder.resolve()
