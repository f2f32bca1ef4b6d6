"""A cache of images' pixels on a node's local disk: one file of `KeptRows` per shard.

The workers, epochs, trials and runs of a node share the files. A file's name is a digest of all
that its bytes depend on, so that it is never stale.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from system.data.shards.manifest import Shard
from system.errors import StorageError
from system.storage.kept_rows import KeptFolder, KeptRows, Parts, file_size
from system.storage.node_folder import temporary_folder

_NONE = "images that are not in it are decoded anew in each epoch"


def cache_folder() -> Path:
    """The user's folder on this node's disk for temporary files (`TMPDIR`)."""
    return temporary_folder("pixels")


class PixelCache:
    """The pixels that one transform makes of shards' images, kept in at most `limit` bytes.

    What finds no room, or no working disk, is not kept, and `note` is told once.
    """

    def __init__(
        self, key: str, shape: Sequence[int], limit: float, note: Callable[[str], None]
    ) -> None:
        """`key`: what pixels depend on beside the image; `shape`: of an image's bytes."""
        self.key = key
        self.parts: Parts = ((tuple(shape), torch.uint8),)
        self.note = note
        self.folder = KeptFolder(
            cache_folder(),
            limit,
            lambda line: note(f"pixel cache: {line}"),
            _NONE,
            private=True,
        )
        self._files: dict[str, KeptRows | None] = {}  # by checksum of the shard
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

    def of(self, shard: Shard) -> KeptRows | None:
        """The file of a shard's images, made if it is missing; None: they are not kept."""
        with self._lock:
            if shard.sha256 not in self._files:
                try:
                    self._files[shard.sha256] = self._opened(shard)
                except StorageError as error:
                    self._leave(shard, error)
            return self._files[shard.sha256]

    def leave(self, shard: Shard, error: StorageError) -> None:
        """Keep a shard's images no more, after an error of the disk."""
        with self._lock:
            self._leave(shard, error)

    def _leave(self, shard: Shard, error: StorageError) -> None:
        self._refuse(str(error))
        self._files[shard.sha256] = None

    def _refuse(self, why: str) -> None:
        """Say once for all shards why some are not kept."""
        if not self._refused:
            self.note(f"pixel cache: {why}")
        self._refused = True

    def _opened(self, shard: Shard) -> KeptRows | None:
        ((shape, _),) = self.parts
        names = [shard.sha256, self.key, *map(str, shape)]
        name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]
        found = self.folder.make_within(name, shard.rows, self.parts)
        if found is None:
            size = file_size(shard.rows, self.parts)
            self._refuse(
                f"{self.folder.path} has no room for the {size / 1e9:.2f} GB of shard {shard.uri} "
                f"within stage.cache_gb={self.folder.limit / 1e9:g} and a disk that is not full; "
                f"{_NONE}"
            )
        return found


@dataclass(frozen=True, slots=True)
class CachedRow:
    """The place of one image's pixels in a cache."""

    cache: PixelCache
    shard: Shard
    file: KeptRows
    row: int  # of the shard's

    def there(self) -> bool:
        """Whether the pixels were kept."""
        try:
            return self.file.has(self.row)
        except StorageError as error:
            self.cache.leave(self.shard, error)
            return False

    def read(self) -> Tensor | None:
        """The pixels; None where they are missing, or the disk fails."""
        try:
            found = self.file.read(self.row)
        except StorageError as error:
            self.cache.leave(self.shard, error)
            return None
        return None if found is None else found[0]

    def write(self, pixels: Tensor) -> None:
        """Keep the pixels, if the disk lets."""
        try:
            self.file.put(self.row, [pixels])
        except StorageError as error:
            self.cache.leave(self.shard, error)
