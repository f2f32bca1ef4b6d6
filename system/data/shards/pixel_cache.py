"""A cache of images' pixels on a node's local disk: one memory-mapped file per shard.

The workers, epochs, trials and runs of a node share the files. A file's name is a digest of all
that its bytes depend on, so that it is never stale and it does not matter who writes a row; two
that write the same row write the same bytes. A row is there once its checksum is, which is written
after its bytes and is compared at every reading.

File: `_MAGIC`, rows and bytes per row (two uint64), the rows' checksums (uint32, 0 where a row is
missing), their bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import shutil
import struct
import tempfile
import threading
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from system.data.shards.manifest import Shard

# A view of a file's bytes, which nothing here writes to.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

_MAGIC = b"promptide pixels 1"
_HEADER = struct.Struct(f"<{len(_MAGIC)}sQQ")
_CHECKSUM = struct.Struct("<I")
_SUFFIX = ".pixels"
_LEFT_FREE = 0.05  # of the disk: others use it too


def cache_folder() -> Path:
    """The user's folder on this node's disk for temporary files (`TMPDIR`)."""
    return Path(tempfile.gettempdir()) / f"promptide-pixels-{os.getuid()}"


class PixelCache:
    """The pixels that one transform makes of shards' images, kept in at most `limit` bytes.

    Files that no process has open are deleted, those used longest ago first, to make room for
    others; what finds no room, or no working disk, is not kept, and `note` is told once.
    """

    def __init__(
        self, key: str, shape: Sequence[int], limit: float, note: Callable[[str], None]
    ) -> None:
        """`key`: what pixels depend on beside the image; `shape`: of an image's bytes."""
        self.key = key
        self.shape = tuple(shape)
        self.limit = limit
        self.note = note
        self.folder = cache_folder()
        self._files: dict[str, CacheFile | None] = {}  # by checksum of the shard
        self._lock = threading.Lock()
        self._refused = False

    @classmethod
    def wanted(
        cls,
        cache_gb: float | None,
        key: str | None,
        shape: Sequence[int],
        note: Callable[[str], None] = lambda _: None,
    ) -> PixelCache | None:
        """The cache that `stage.cache_gb` asks for; None without one, or for pixels without a key.

        `key` None: pixels that are random, or floats.
        """
        if cache_gb is None:
            return None
        if key is None:
            note(f"pixel cache: of no use to what is random or made by an image processor; {_NONE}")
            return None
        return cls(key, shape, cache_gb * 1e9, note)

    def of(self, shard: Shard) -> CacheFile | None:
        """The file of a shard's images, made if it is missing; None: they are not kept."""
        with self._lock:
            if shard.sha256 not in self._files:
                self._files[shard.sha256] = self._opened_or_none(shard)
            return self._files[shard.sha256]

    def drop(self, shard: Shard, file: CacheFile, why: str) -> None:
        """Delete a damaged file; it is made again when its shard is asked for next."""
        with self._lock:
            if self._files.get(shard.sha256) is not file:
                return  # another thread has dropped it
            del self._files[shard.sha256]
            self.note(f"pixel cache: {file.path} {why}; it is made again")
            with suppress(OSError), self._locked():
                file.unlink()

    def leave(self, shard: Shard, error: OSError) -> None:
        """Keep a shard's images no more, after an error of the disk."""
        with self._lock:
            self._refuse(f"{self.folder} cannot be used ({error})")
            self._files[shard.sha256] = None

    def _opened_or_none(self, shard: Shard) -> CacheFile | None:
        try:
            return self._opened(shard)
        except OSError as error:
            self._refuse(f"{self.folder} cannot be used ({error})")
            return None

    def _refuse(self, why: str) -> None:
        """Say once for all shards why some are not kept."""
        if not self._refused:
            self.note(f"pixel cache: {why}; {_NONE}")
        self._refused = True

    def _opened(self, shard: Shard) -> CacheFile | None:
        names = [shard.sha256, self.key, *map(str, self.shape)]
        name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]
        path = self.folder / f"{name}{_SUFFIX}"
        row_bytes = torch.Size(self.shape).numel()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.folder.lstat().st_uid != os.getuid():
            raise PermissionError("it is another user's")
        with self._locked():
            if path.exists():
                found = CacheFile.open(path, shard.rows, self.shape)
                if found is not None:
                    os.utime(path)
                    return found
                self.note(f"pixel cache: {path} is damaged or truncated; it is made again")
                path.unlink()
            size = file_size(shard.rows, row_bytes)
            if not self._make_room(size):
                self._refuse(
                    f"{self.folder} has no room for the {size / 1e9:.2f} GB of shard {shard.uri} "
                    f"within stage.cache_gb={self.limit / 1e9:g} and a disk that is not full"
                )
                return None
            _create(path, shard.rows, row_bytes)
            return CacheFile.open(path, shard.rows, self.shape)

    def _make_room(self, size: int) -> bool:
        """Delete files that nobody uses until `size` bytes more fit, if they do at all."""
        for left in self.folder.glob(".*.tmp"):  # by a process that died while it made a file
            left.unlink(missing_ok=True)
        files = sorted(
            ((path, path.stat()) for path in self.folder.glob(f"*{_SUFFIX}")),
            key=lambda entry: entry[1].st_mtime,
        )
        used = sum(status.st_size for _, status in files)
        disk = shutil.disk_usage(self.folder)
        room = min(self.limit - used, disk.free - _LEFT_FREE * disk.total)
        for path, status in files:
            if room >= size:
                break
            with path.open("rb") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                path.unlink()
                room += status.st_size
        return room >= size

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time makes or deletes files; the lock goes with its process."""
        with (self.folder / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


_NONE = "images that are not in it are decoded anew in each epoch"


class CacheFile:
    """The rows of one shard, for any number of threads."""

    def __init__(self, path: Path, rows: int, shape: Sequence[int], descriptor: int) -> None:
        self.path = path
        self.rows = rows
        self.shape = tuple(shape)
        self._row_bytes = torch.Size(self.shape).numel()
        self._size = file_size(rows, self._row_bytes)
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, self._size, prot=mmap.PROT_READ)
        self._bytes = memoryview(self._map)

    @classmethod
    def open(cls, path: Path, rows: int, shape: Sequence[int]) -> CacheFile | None:
        """Open a file; None if it is not one of so many rows of that shape, whole."""
        row_bytes = torch.Size(tuple(shape)).numel()
        descriptor = os.open(path, os.O_RDWR)
        header = os.pread(descriptor, _HEADER.size, 0)
        size = os.fstat(descriptor).st_size
        whole = size == file_size(rows, row_bytes)
        if not whole or header != _HEADER.pack(_MAGIC, rows, row_bytes):
            os.close(descriptor)
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # in use, for as long as this process has it open
        return cls(path, rows, shape, descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)  # the map closes its own

    def has(self, row: int) -> bool:
        """Whether a row's pixels are there."""
        return self._whole() and self._checksum(row) != 0

    def read(self, row: int) -> Tensor | None:
        """A copy of a row's bytes, of the file's shape; None for a missing row.

        Raises: DamagedError for a row whose bytes are not those that were written.
        """
        if not self._whole():
            raise DamagedError("has been truncated")
        expected = self._checksum(row)
        if not expected:
            return None
        start = self._start(row)
        data = self._bytes[start : start + self._row_bytes]
        if checksum(data) != expected:
            raise DamagedError(f"has a damaged row {row}")
        return torch.frombuffer(data, dtype=torch.uint8).view(self.shape).clone()

    def write(self, row: int, pixels: Tensor) -> None:
        """Put in a row's bytes. Raises OSError of the disk."""
        data = pixels.contiguous().numpy().data.cast("B")
        os.pwrite(self._descriptor, data, self._start(row))
        os.pwrite(self._descriptor, _CHECKSUM.pack(checksum(data)), self._checksum_at(row))

    def unlink(self) -> None:
        """Delete the file, unless another one has its name by now."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
                self.path.unlink()

    def _whole(self) -> bool:
        # A page of the map behind the file's end kills the process that touches it.
        return os.fstat(self._descriptor).st_size == self._size

    def _checksum(self, row: int) -> int:
        (found,) = _CHECKSUM.unpack_from(self._bytes, self._checksum_at(row))
        return int(found)

    def _checksum_at(self, row: int) -> int:
        return _HEADER.size + row * _CHECKSUM.size

    def _start(self, row: int) -> int:
        return file_size(self.rows, 0) + row * self._row_bytes


@dataclass(frozen=True, slots=True)
class CachedRow:
    """The place of one image's pixels in a cache."""

    cache: PixelCache
    shard: Shard
    file: CacheFile
    row: int  # of the shard's

    def read(self) -> Tensor | None:
        """The pixels; None where they are missing. A damaged file is dropped."""
        try:
            return self.file.read(self.row)
        except DamagedError as error:
            self.cache.drop(self.shard, self.file, str(error))
            return None

    def write(self, pixels: Tensor) -> None:
        """Keep the pixels, if the disk lets."""
        try:
            self.file.write(self.row, pixels)
        except OSError as error:
            self.cache.leave(self.shard, error)


class DamagedError(Exception):
    """A cache file that holds something else than was written; the message says what."""


def file_size(rows: int, row_bytes: int) -> int:
    """The bytes of a file of `rows` rows."""
    return _HEADER.size + rows * (_CHECKSUM.size + row_bytes)


def checksum(data: memoryview) -> int:
    """A checksum from 1 to 2**32 - 1."""
    return zlib.crc32(data) or 1


def _create(path: Path, rows: int, row_bytes: int) -> None:
    """Make an empty file in one step, with its whole room on the disk."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("wb") as stream:
            stream.write(_HEADER.pack(_MAGIC, rows, row_bytes))
            stream.flush()
            # A disk that fills up later would kill whoever reads the missing pages.
            os.posix_fallocate(stream.fileno(), 0, file_size(rows, row_bytes))
        os.rename(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
