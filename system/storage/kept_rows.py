"""Rows of tensors in memory-mapped files on a node's disk, filled by whoever needs them first.

A file's name is a digest of all that its rows depend on, so that processes which fill it at once
write the same bytes, and none has to wait for another. Each row has a checksum, written after it: a
row without one is missing, a row that it does not fit is damaged, and both are computed anew.

File: a header of JSON, filled up to HEADER bytes; a checksum of 4 bytes for each row; the rows.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Buffer

from system.errors import StorageError
from system.storage.files import Folder, is_local
from system.storage.foreign_json import parse_json
from system.storage.node_folder import temporary_folder, user_id

HEADER = 4096  # bytes
SUFFIX = ".rows"
LOCK = "lock"
_ALIGNED = 64  # bytes that each row starts at a multiple of
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}
_LEFT_FREE = 0.05  # of the disk: others use it too

#: Shape and type of each tensor of a row.
Parts = tuple[tuple[tuple[int, ...], torch.dtype], ...]


class KeptRows:
    """`count` rows, each of the same tensors, in one file that other processes may fill too.

    Any number of threads may use one. StorageError is raised for a disk that fails.
    """

    def __init__(
        self, path: Path, opened: BinaryIO, count: int, parts: Parts, folder: KeptFolder
    ) -> None:
        """The file at `path`, opened unbuffered, which is of this layout."""
        self.path = path
        self.count = count
        self.parts = parts
        self._folder = folder
        self._file = opened
        fcntl.flock(opened, fcntl.LOCK_SH)  # in use, for as long as this process has it open
        self._size = file_size(count, parts)
        self._start = _first_row(count)
        self._map = mmap.mmap(opened.fileno(), self._size)
        self._sums = np.frombuffer(self._map, np.uint32, count, HEADER)
        self._rows = np.frombuffer(self._map, np.uint8, offset=self._start).reshape(count, -1)
        self._checked = np.zeros(count, bool)
        self._told = False

    def has(self, row: int) -> bool:
        """Whether a row was put in."""
        self._make_whole()
        return bool(self._sums[row])

    def read(self, row: int) -> list[Tensor] | None:
        """A copy of a row's tensors, compared with its checksum; None for a missing one."""
        self._make_whole()
        if not self._fits(row):
            return None
        return [part[0].clone() for part in self._tensors(slice(row, row + 1))]

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Those of the rows that are not there, or damaged, which is noted."""
        self._make_whole()
        lacking = []
        for row in rows:
            if not self._checked[row]:
                self._checked[row] = self._fits(row)
            if not self._checked[row]:
                lacking.append(row)
        return lacking

    def put(self, row: int, tensors: Sequence[Tensor]) -> None:
        """Write a row."""
        assert parts_of(tensors) == self.parts, "a row of another layout"
        data = b"".join(map(_as_bytes, tensors)).ljust(self._rows.shape[1], b"\0")
        with self._folder.errors(self.path):  # a full disk behind a mapping kills the process
            os.pwrite(self._file.fileno(), data, self._start + row * len(data))
            checksum = _checksum(data)
            os.pwrite(self._file.fileno(), np.uint32(checksum).tobytes(), HEADER + 4 * row)

    def take(self, rows: slice) -> list[Tensor]:
        """The tensors (k, ...) of rows of which none is missing: views, not to be written to."""
        assert self._checked[rows].all(), "ask for what is missing first"
        return self._tensors(rows)

    def _tensors(self, rows: slice) -> list[Tensor]:
        found, at, data = [], 0, self._rows[rows]
        for shape, dtype in self.parts:
            size = prod(shape) * dtype.itemsize
            part = torch.from_numpy(data[:, at : at + size]).view(dtype)
            found.append(part.reshape(len(part), *shape))
            at += size
        return found

    def _fits(self, row: int) -> bool:
        expected = int(self._sums[row])
        if expected and expected != _checksum(self._rows[row].data):
            self._tell()
            return False
        return expected != 0

    def _make_whole(self) -> None:
        """A page of the mapping behind the file's end kills the process that touches it."""
        if os.fstat(self._file.fileno()).st_size < self._size:
            self._tell()
            with self._folder.errors(self.path):
                os.posix_fallocate(self._file.fileno(), 0, self._size)
                os.pwrite(self._file.fileno(), _header(self.count, self.parts), 0)
            self._checked[:] = False

    def _tell(self) -> None:
        if not self._told:
            self._folder.note(f"{self.path}: rows are damaged, and made anew")
        self._told = True


@dataclass
class KeptFolder:
    """A folder of such files on this node, in all of about `limit` bytes.

    Files that no process has open are deleted, those used longest ago first, to make room.
    """

    path: Path
    limit: float
    note: Callable[[str], None]  # takes lines on damage
    remedy: str  # ends an error: what a user can do
    private: bool = False  # of a name that any user of the node could have taken
    #: Those in use; a file is closed with its last user.
    _opened: WeakValueDictionary[str, KeptRows] = field(default_factory=WeakValueDictionary)

    @classmethod
    def of(
        cls, folder: Folder, limit: float, note: Callable[[str], None], remedy: str
    ) -> KeptFolder:
        """In a local folder itself; for one elsewhere in the node's own temporary directory."""
        if is_local(folder.filesystem):
            return cls(Path(folder.path), limit, note, remedy)
        name = folder.path.rstrip("/").rpartition("/")[2]
        return cls(temporary_folder(name), limit, note, remedy, private=True)

    def fits(self, count: int, parts: Parts) -> bool:
        """Whether so many rows are within the limit, when nothing else is kept."""
        return file_size(count, parts) <= self.limit

    def find(self, key: str, count: int, wanted: Parts | None = None) -> KeptRows | None:
        """The file of that name, None if there is none; a damaged one is deleted, and noted.

        `wanted` is the layout, where it is known.
        """
        opened = self._opened.get(key)
        if opened is not None:
            return opened
        path = self._path(key)
        with self.errors(path):
            self._require_own()
            try:
                stream = open(path, "r+b", buffering=0)  # noqa: SIM115  # as long as the mapping
            except FileNotFoundError:
                return None
            parts = _parts_of(stream.read(HEADER), count)
            fits = parts is not None and wanted in (None, parts)
            if fits and parts and os.path.getsize(path) == file_size(count, parts):
                os.utime(path)  # that it was used last
                found = KeptRows(path, stream, count, parts, self)
                self._opened[key] = found
                return found
            self.note(f"{path}: damaged, and made anew")
            with stream, suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                    path.unlink()
        return None

    def make(self, key: str, count: int, parts: Parts) -> KeptRows:
        """The file of that name, empty unless another process was first.

        It is made beyond the limit if there is no other way: ask `fits`.
        """
        made = self._made(key, count, parts, beyond=True)
        assert made is not None, "beyond the limit there is always room"
        return made

    def make_within(self, key: str, count: int, parts: Parts) -> KeptRows | None:
        """The same, but None if there is no room within the limit, or on a disk almost full."""
        return self._made(key, count, parts, beyond=False)

    def _made(self, key: str, count: int, parts: Parts, *, beyond: bool) -> KeptRows | None:
        path = self._path(key)
        found = self.find(key, count, parts)
        while found is None:
            with self._locked():
                if not path.exists():
                    room = self._make_room(file_size(count, parts))
                    if not (room or beyond):
                        return None
                    _create(path, count, parts)
            # None again: damaged by another hand in this very moment, or deleted.
            found = self.find(key, count, parts)
        return found

    def _path(self, key: str) -> Path:
        return self.path / f"{key}{SUFFIX}"

    def _require_own(self) -> None:
        with suppress(FileNotFoundError):
            if self.private and self.path.lstat().st_uid != user_id():
                raise PermissionError("it is another user's")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time makes files or room; the lock goes with its process."""
        with self.errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._require_own()
            with (self.path / LOCK).open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                yield

    def _make_room(self, size: int) -> bool:
        """Delete files that nobody uses until `size` bytes more fit, if they do at all."""
        for left in self.path.glob(".*.tmp"):  # by a process that died while it made a file
            left.unlink(missing_ok=True)
        held = sorted(
            ((path, path.stat()) for path in self.path.glob(f"*{SUFFIX}")),
            key=lambda entry: entry[1].st_mtime,
        )
        disk = shutil.disk_usage(self.path)
        used = sum(status.st_size for _, status in held)
        room = min(self.limit - used, disk.free - _LEFT_FREE * disk.total)
        for path, status in held:
            if room >= size:
                break
            with path.open("rb") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # in use
                path.unlink()
                room += status.st_size
        return room >= size

    @contextmanager
    def errors(self, path: Path) -> Iterator[None]:
        """Errors of the disk as StorageError with the remedy."""
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise StorageError(f"{path} cannot be used ({why}): {self.remedy}") from error


def _create(path: Path, count: int, parts: Parts) -> None:
    """Make an empty file in one step, with its whole room on the disk."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("xb") as stream:
            stream.write(_header(count, parts))
            stream.flush()
            # A disk that fills up later would kill whoever reads the missing pages.
            os.posix_fallocate(stream.fileno(), 0, file_size(count, parts))
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def row_bytes(parts: Parts) -> int:
    """Bytes that a row takes. Tensors of wider types have to come first."""
    size = sum(prod(shape) * dtype.itemsize for shape, dtype in parts)
    return -(-size // _ALIGNED) * _ALIGNED


def parts_of(tensors: Sequence[Tensor]) -> Parts:
    """The layout of a row of these tensors."""
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)


def _first_row(count: int) -> int:
    return -(-(HEADER + 4 * count) // _ALIGNED) * _ALIGNED


def file_size(count: int, parts: Parts) -> int:
    """Bytes of a file of `count` rows."""
    return _first_row(count) + count * row_bytes(parts)


def _header(count: int, parts: Parts) -> bytes:
    names = {dtype: name for name, dtype in _DTYPES.items()}
    layout = [[list(shape), names[dtype]] for shape, dtype in parts]
    text = json.dumps({"rows": count, "parts": layout}).encode()
    assert len(text) <= HEADER, "too many tensors in a row"
    return text.ljust(HEADER)


def _parts_of(header: bytes, count: int) -> Parts | None:
    """The layout that a header names; None for no such header, or one of other rows."""
    try:
        content = parse_json(header)
        if content["rows"] != count:
            return None
        return tuple((tuple(shape), _DTYPES[name]) for shape, name in content["parts"])
    except (ValueError, LookupError, TypeError):
        return None


def _as_bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy())


def _checksum(data: Buffer) -> int:
    return zlib.crc32(data) or 1  # 0 is a row that is not there
