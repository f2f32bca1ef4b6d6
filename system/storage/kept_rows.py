"""Rows of tensors in memory-mapped files on a node's disk, filled by whoever needs them first.

A file's name is a digest of all that its rows depend on, so that processes which fill it at once
write the same bytes, and none has to wait for another. Each row has a checksum, written after it: a
row without one is missing, a row that it does not fit is damaged, and both are computed anew.

File: a header of JSON, filled up to HEADER bytes; a checksum of 4 bytes for each row; the rows.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Buffer

from system.errors import StorageError
from system.storage.files import Folder, is_local

HEADER = 4096  # bytes
SUFFIX = ".rows"
_ALIGNED = 64  # bytes that each row starts at a multiple of
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Shape and type of each tensor of a row.
Parts = tuple[tuple[tuple[int, ...], torch.dtype], ...]


class KeptRows:
    """`count` rows, each of the same tensors, in one file that other processes may fill too."""

    def __init__(
        self, path: Path, count: int, parts: Parts, note: Callable[[str], None] = lambda _: None
    ) -> None:
        """The file at `path`, which is of this layout. `note` takes lines on damage."""
        self.path = path
        self.count = count
        self.parts = parts
        self.note = note
        start = _first_row(count)
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115  # as long as the mapping
        self._map = mmap.mmap(self._file.fileno(), start + count * row_bytes(parts))
        self._sums = np.frombuffer(self._map, np.uint32, count, HEADER)
        self._rows = np.frombuffer(self._map, np.uint8, offset=start).reshape(count, -1)
        self._start = start
        self._checked = np.zeros(count, bool)

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Those of the rows that are not there, or damaged, which is noted."""
        lacking, damaged = [], 0
        for row in rows:
            if self._checked[row]:
                continue
            found = int(self._sums[row])
            if found and found == _checksum(self._rows[row].data):
                self._checked[row] = True
                continue
            damaged += bool(found)
            lacking.append(row)
        if damaged:
            self.note(f"{self.path}: {damaged} of {self.count} rows are damaged, and made anew")
        return lacking

    def put(self, row: int, tensors: Sequence[Tensor]) -> None:
        """Write a row. Raises StorageError for a disk that is full or read-only."""
        assert parts_of(tensors) == self.parts, "a row of another layout"
        data = b"".join(map(_as_bytes, tensors)).ljust(self._rows.shape[1], b"\0")
        with _errors(self.path):  # not by the mapping: a full disk would kill the process
            os.pwrite(self._file.fileno(), data, self._start + row * len(data))
            checksum = _checksum(data)
            os.pwrite(self._file.fileno(), np.uint32(checksum).tobytes(), HEADER + 4 * row)

    def take(self, rows: slice) -> list[Tensor]:
        """The tensors (k, ...) of rows of which none is missing: views, not to be written to."""
        assert self._checked[rows].all(), "ask for what is missing first"
        found, at, data = [], 0, self._rows[rows]
        for shape, dtype in self.parts:
            size = prod(shape) * dtype.itemsize
            part = torch.from_numpy(data[:, at : at + size]).view(dtype)
            found.append(part.reshape(len(part), *shape))
            at += size
        return found


class KeptFolder:
    """A folder of such files on this node, in all of about `limit` bytes."""

    def __init__(self, path: Path, limit: float, note: Callable[[str], None]) -> None:
        self.path = path
        self.limit = limit
        self.note = note
        #: Those in use; a file is closed with its last user.
        self._opened: WeakValueDictionary[str, KeptRows] = WeakValueDictionary()

    @classmethod
    def of(cls, folder: Folder, limit: float, note: Callable[[str], None]) -> KeptFolder:
        """In a local folder itself; for one elsewhere in the node's own temporary directory."""
        if is_local(folder.filesystem):
            return cls(Path(folder.path), limit, note)
        name = folder.path.rstrip("/").rpartition("/")[2]
        user = os.getuid() if hasattr(os, "getuid") else 0
        return cls(Path(tempfile.gettempdir()) / f"promptide-{user}" / name, limit, note)

    def fits(self, count: int, parts: Parts) -> bool:
        """Whether so many rows are within the limit, when nothing else is kept."""
        return _size(count, parts) <= self.limit

    def find(self, key: str, count: int) -> KeptRows | None:
        """The file of that name, None if there is none; a damaged one is deleted, and noted."""
        opened = self._opened.get(key)
        if opened is not None:
            return opened
        path = self.path / f"{key}{SUFFIX}"
        try:
            with open(path, "rb") as stream:
                header = stream.read(HEADER)
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(path, error) from error
        parts = _parts_of(header, count)
        if parts is None or size != _size(count, parts):
            self.note(f"{path}: damaged, and made anew")
            path.unlink(missing_ok=True)
            return None
        with _errors(path):
            os.utime(path)  # that it was used last
            found = KeptRows(path, count, parts, self.note)
        self._opened[key] = found
        return found

    def make(self, key: str, count: int, parts: Parts) -> KeptRows:
        """The file of that name, empty unless another process was first.

        Those used longest ago are deleted where the limit asks for it. Raises StorageError.
        """
        path = self.path / f"{key}{SUFFIX}"
        with _errors(path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(_size(count, parts))
            aside = self.path / f".{key}.{uuid.uuid4().hex}"
            try:
                with open(aside, "xb") as stream:
                    stream.write(_header(count, parts))
                    stream.truncate(_size(count, parts))
                with suppress(FileExistsError):
                    os.link(aside, path)  # one of several processes is first, whole or not at all
            finally:
                aside.unlink(missing_ok=True)
        found = self.find(key, count)
        # Damaged by another hand in this very moment, or deleted.
        return self.make(key, count, parts) if found is None else found

    def _make_room(self, size: int) -> None:
        held = []
        for path in self.path.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                held.append((path.stat().st_mtime, path.stat().st_size, path))
        total = size + sum(taken for _, taken, _ in held)
        for _, taken, path in sorted(held):
            if total <= self.limit:
                return
            if path.stem not in self._opened:
                path.unlink(missing_ok=True)  # processes that have it open keep their own
                total -= taken


def row_bytes(parts: Parts) -> int:
    """Bytes that a row takes. Tensors of wider types have to come first."""
    size = sum(prod(shape) * dtype.itemsize for shape, dtype in parts)
    return -(-size // _ALIGNED) * _ALIGNED


def parts_of(tensors: Sequence[Tensor]) -> Parts:
    """The layout of a row of these tensors."""
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)


def _first_row(count: int) -> int:
    return -(-(HEADER + 4 * count) // _ALIGNED) * _ALIGNED


def _size(count: int, parts: Parts) -> int:
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
        content = json.loads(header)
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


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> StorageError:
    why = error.strerror or error
    return StorageError(
        f"{path} cannot be written ({why}): free space, set another data_path, or "
        "stage.kept_gb=null to keep nothing"
    )
