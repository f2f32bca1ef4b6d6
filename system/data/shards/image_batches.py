"""Batches of images of chosen rows of several splits, in any order.

A few row groups of encoded images are in memory.
"""

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import accumulate

import numpy as np
from torch import Tensor

from system.data.shards.images import Decoding, decode_image
from system.data.shards.loading import Transform
from system.data.shards.manifest import SplitHandle
from system.data.shards.padding import PaddedImages, padded_together
from system.data.shards.parallel import bounded_map, prefetch
from system.data.shards.shard_reader import SplitReader

HELD_GROUPS = 16  # row groups of 64 images that are shuffled together, and kept while they are used
_BATCHES_AHEAD = 2
_COLUMNS = ("file_name", "image")

Place = tuple[int, int]  # which of the splits, and the row in its file order


def image_batches(
    handles: Sequence[SplitHandle],
    batches: Sequence[Sequence[Place]],
    *,
    transform: Transform,
    threads: int,
    multiple: int = 1,
) -> Generator[PaddedImages, None, None]:
    """Yield the images [b, 3, H, W] of each batch, in the order asked; a row may come often.

    A batch is padded to its largest image, and that to a `multiple` of pixels: `padded_together`.
    Closing the generator ends its threads. Raises, while reading: DataError naming shard and file
    of an image that does not decode.
    """

    def decode(item: tuple[str, bytes, Decoding]) -> Tensor:
        name, data, decoding = item
        return transform(decode_image(data, name, decoding), None)

    def produce() -> Generator[PaddedImages, None, None]:
        with _Images(handles) as images:
            found = (images.read(place) for batch in batches for place in batch)
            with closing(bounded_map(decode, found, threads=threads)) as pixels:
                for batch in batches:
                    yield padded_together([next(pixels) for _ in batch], multiple)

    return prefetch(produce(), depth=_BATCHES_AHEAD)


def group_of_rows(handle: SplitHandle) -> list[int]:
    """Number the row group of each row of a split, without quarantined rows."""
    return [g for g, rows in enumerate(SplitReader(handle).group_rows) for _ in range(rows)]


def shuffled_by_group(groups: Sequence[Sequence[int]], seed: Sequence[int]) -> list[int]:
    """Shuffle all samples of all groups so that HELD_GROUPS groups at a time are being read."""
    draw = np.random.default_rng([*seed])
    turns = draw.permutation(len(groups)).tolist()
    order: list[int] = []
    for start in range(0, len(turns), HELD_GROUPS):
        pool = [sample for group in turns[start : start + HELD_GROUPS] for sample in groups[group]]
        order += [pool[at] for at in draw.permutation(len(pool))]
    return order


class _Images:
    """Encoded images by place; keeps the row groups used last."""

    def __init__(self, handles: Sequence[SplitHandle]) -> None:
        self._handles = handles
        self._opened = ExitStack()
        self._readers: dict[int, SplitReader] = {}
        self._firsts: dict[int, list[int]] = {}
        self._groups = [group_of_rows(handle) for handle in handles]
        self._held: OrderedDict[Place, tuple[list[tuple[str, bytes]], Decoding]] = OrderedDict()

    def __enter__(self) -> "_Images":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def read(self, place: Place) -> tuple[str, bytes, Decoding]:
        """Return the image's file name with task and split, its encoded bytes, how to decode."""
        split, row = place
        group = self._groups[split][row]
        if split not in self._readers:
            reader = self._opened.enter_context(SplitReader(self._handles[split]))
            self._readers[split] = reader
            self._firsts[split] = [0, *accumulate(reader.group_rows)]
        if (split, group) not in self._held:
            decoding = self._readers[split].decoding(group)
            self._held[split, group] = list(self._rows(split, group)), decoding
            while len(self._held) > HELD_GROUPS:
                self._held.popitem(last=False)
        self._held.move_to_end((split, group))
        rows, decoding = self._held[split, group]
        name, data = rows[row - self._firsts[split][group]]
        handle = self._handles[split]
        return f"{name} in task {handle.task!r}, split {handle.split!r}", data, decoding

    def _rows(self, split: int, group: int) -> Iterator[tuple[str, bytes]]:
        table = self._readers[split].read_group(group, _COLUMNS)
        names, images = (table.column(name).to_pylist() for name in _COLUMNS)
        yield from zip(names, images, strict=True)
