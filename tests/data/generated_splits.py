"""Splits of generated images, for tests of writing shards."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from system.data.prepare.shard_writer import write_shards
from system.data.shards.faults import Faults
from system.data.shards.manifest import Manifest
from system.data.shards.schema import Expression, ImageRecord, Instance, Mask
from tests.data.coco_files import png


class Generated:
    """A split of images that exist only while they are loaded; breaks at `broken`.

    `damaged` are the bytes of single images.
    """

    def __init__(
        self,
        count: int,
        broken: int | None = None,
        large: bool = False,
        damaged: dict[int, bytes] | None = None,
    ) -> None:
        self._damaged = damaged or {}
        self.fingerprint = f"generated {count} {large}"
        self.loaded = 0
        self._count, self._broken, self._large = count, broken, large
        self._lock = Lock()

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{index}.png"

    def load(self, index: int) -> ImageRecord:
        with self._lock:
            self.loaded += 1
        if index == self._broken:
            raise KeyboardInterrupt
        size = (64, 48) if self._large else (8, 6)
        mask = Mask(size[1], size[0], b"0")
        return ImageRecord(
            image_id=str(index),
            file_name=self.name(index),
            image=self._damaged.get(index, png(size, index)),
            width=size[0],
            height=size[1],
            captions=(f"number {index}", "again"),
            task="low" if 2 * index <= self._count else "high",
            instances=(Instance((0.5, 0.0, 2.0, 3.0), "pen", "tool", mask),),
            expressions=(Expression(0, "the pen"),),
        )


def write(splits: dict[str, Generated], root: str, **settings: Any) -> Manifest:
    settings.setdefault("faults", Faults("stop"))
    return write_shards(
        splits, root, benchmark="generated", tasks=("low", "high"), source={}, **settings
    )


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the operating system refuse to grow a file beyond `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
