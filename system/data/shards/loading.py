"""Loading in workers: shuffled training batches, chosen rows, texts. All lazy and streamed.

B batch, S slots. Which rows make up which step's batch depends on seed and split only, never on
the number of workers: a batch is the union of S slots, and a worker asks for some of them.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby, islice

import numpy as np
import torch
from PIL import Image

from system.config.schema import EpochOver
from system.data.shards.faults import Fault, Faults
from system.data.shards.images import decode_image
from system.data.shards.manifest import SplitHandle
from system.data.shards.parallel import bounded_map, prefetch
from system.data.shards.pixel_cache import PixelCache
from system.data.shards.shard_reader import ShardRow, SplitReader
from system.data.shards.shuffling import Share, shuffled, slot_shares
from system.errors import ConfigError, DataError

# RGB image -> tensor [3, H, W], floats or bytes; the generator is for random augmentation, None in
# evaluation.
Transform = Callable[[Image.Image, np.random.Generator | None], torch.Tensor]

_STEPS_AHEAD = 2

# Branches of the seed: the order of row groups has the seed itself.
_SHUFFLE, _CAPTION, _AUGMENTATION = 1, 2, 3  # 4 is `_PASS` of shuffling


@dataclass(frozen=True)
class MicroBatch:
    """One slot's part of a step's batch: B/S images, each with one of its captions."""

    slot: int
    images: torch.Tensor  # [B/S, 3, H, W]
    captions: list[str]
    image_ids: list[str]
    rows: list[int]  # row numbers in the split's file order


@dataclass(frozen=True)
class Chunk:
    """Some rows of a split, each image with all its captions."""

    images: torch.Tensor  # [rows, 3, H, W]
    captions: list[list[str]]
    image_ids: list[str]
    rows: list[int]  # row numbers in the split's file order


def steps_per_epoch(
    rows: int, batch_size: int, micro_batches: int, *, task: str | None = None
) -> int:
    """Count the full batches of an epoch; the remaining rows are dropped.

    Raises: ConfigError if the batch does not divide into micro-batches, DataError (naming `task`)
    if there are fewer rows than a batch.
    """
    if batch_size < 1 or micro_batches < 1 or batch_size % micro_batches:
        raise ConfigError(
            f"stage.batch_size: {batch_size} does not divide into {micro_batches} micro-batches: "
            f"make it a multiple of {micro_batches}"
        )
    if rows < batch_size:
        name = "the task" if task is None else f"task {task!r}"
        raise DataError(
            f"{name} has {rows} training images, fewer than the batch of {batch_size}: lower "
            "stage.batch_size"
        )
    return rows // batch_size


def sample_counts(handle: SplitHandle, over: EpochOver) -> list[int]:
    """How often each row of a split comes in an epoch: once, or once for each of its captions."""
    if over == "images":
        return [1] * handle.rows
    return [len(captions) for captions in read_texts(handle)]


def training_batches(
    handle: SplitHandle,
    *,
    batch_size: int,
    micro_batches: int,
    slots: Sequence[int],
    seed: Sequence[int],
    transform: Transform,
    threads: int,
    shuffle_buffer: int,
    start: int = 0,
    pin: bool = False,
    cache: PixelCache | None = None,
    captions: Sequence[int] | None = None,
) -> Generator[list[MicroBatch], None, None]:
    """Yield one epoch's steps: for each asked slot, in the order asked, its micro-batch.

    `batch_size` is the global batch B, `micro_batches` the number S of slots; `seed` must differ
    from epoch to epoch (say run seed, task, epoch). The first `start` steps are read and shuffled,
    but neither decoded nor yielded. A slot is shuffled through a buffer of
    `shuffle_buffer` / S rows of encoded images; with one row group per slot and a few decoded steps
    this is all that is held. Each row comes at most once, with one of its captions at random; with
    `captions`, the number of each row's, it comes once with each of them. Fewer than B samples are
    dropped, and which changes from epoch to epoch. With `pin` images come in pages from which a GPU
    copies while it computes. Pixels are taken from the `cache`, which is of this transform, and put
    into it. Closing the generator ends its threads.
    Raises: ConfigError and DataError of `steps_per_epoch`, ConfigError for slots that are not
    there; while reading, DataError naming shard and file of an image that does not decode.
    """
    counts = [1] * handle.rows if captions is None else captions
    steps = steps_per_epoch(sum(counts), batch_size, micro_batches, task=handle.task)
    if shuffle_buffer < 1:
        raise ConfigError(f"stage.shuffle_buffer: {shuffle_buffer} is too few rows: at least 1")
    if len(set(slots)) != len(slots) or not set(slots) <= set(range(micro_batches)):
        raise ConfigError(
            f"micro-batch slots {list(slots)}: each must be one of 0 to {micro_batches - 1}, once"
        )
    share = batch_size // micro_batches
    buffer = -(-shuffle_buffer // micro_batches)

    def decode(sample: tuple[int, ShardRow]) -> tuple[torch.Tensor, str, ShardRow]:
        number, row = sample
        rng = np.random.default_rng([*seed, _CAPTION, row.row])
        if captions is None:
            chosen = int(rng.integers(len(row.captions)))
        else:
            chosen = int(rng.permutation(len(row.captions))[number])
        branch = (number,) if number else ()
        augmentation = np.random.default_rng([*seed, _AUGMENTATION, row.row, *branch])
        return _decode(row, transform, augmentation, handle), row.captions[chosen], row

    def samples_of(reader: SplitReader, shares: Sequence[Share]) -> Iterator[tuple[int, ShardRow]]:
        for number, pieces in groupby(shares, key=lambda piece: piece.number):
            rows = reader.rows(chain.from_iterable(piece.rows for piece in pieces), cache)
            yield from ((number, row) for row in rows)

    def produce() -> Generator[list[MicroBatch], None, None]:
        with SplitReader(handle) as reader:
            shares = slot_shares(reader.group_rows, counts, micro_batches, seed)
            streams = [
                shuffled(
                    samples_of(reader, shares[slot]),
                    buffer,
                    np.random.default_rng([*seed, _SHUFFLE, slot]),
                )
                for slot in slots
            ]
            # step by step, in a step slot by slot, in a slot row by row
            rows = (next(stream) for _ in range(steps) for stream in streams for _ in range(share))
            left = islice(rows, start * len(streams) * share, None)
            with closing(bounded_map(decode, left, threads=threads)) as samples:
                for _ in range(start, steps):
                    yield [_micro_batch(slot, samples, share, pin) for slot in slots]

    return prefetch(produce(), depth=_STEPS_AHEAD)


def row_selection(
    handle: SplitHandle,
    rows: Sequence[int],
    *,
    batch_rows: int,
    transform: Transform,
    threads: int,
    pin: bool = False,
    cache: PixelCache | None = None,
) -> Generator[Chunk, None, None]:
    """Yield chosen rows in the order asked, in chunks of `batch_rows`.

    In ascending order each row group is read once, and only those that hold a chosen row.

    Raises: ConfigError for a batch of no rows; while reading as `training_batches`, and DataError
    for a row that is not there.
    """
    if batch_rows < 1:
        raise ConfigError(f"batch_rows: {batch_rows} is too few: at least 1")
    wanted = [rows[start : start + batch_rows] for start in range(0, len(rows), batch_rows)]

    def decode(row: ShardRow) -> tuple[torch.Tensor, ShardRow]:
        return _decode(row, transform, None, handle), row

    def produce() -> Generator[Chunk, None, None]:
        with (
            SplitReader(handle) as reader,
            closing(bounded_map(decode, reader.rows(rows, cache), threads=threads)) as samples,
        ):
            for numbers in wanted:
                part = [next(samples) for _ in numbers]
                yield Chunk(
                    _stacked([image for image, _ in part], pin),
                    [list(row.captions) for _, row in part],
                    [row.image_id for _, row in part],
                    [row.row for _, row in part],
                )

    return prefetch(produce(), depth=_STEPS_AHEAD)


def read_texts(handle: SplitHandle) -> list[list[str]]:
    """Read all captions of each image of a split, in file order, and no image."""
    with SplitReader(handle) as reader:
        return [row["captions"] for row in reader.values(["captions"])]


def read_image_ids(handle: SplitHandle) -> list[str]:
    """Read the id of each image of a split, in file order, and no image."""
    with SplitReader(handle) as reader:
        return [str(row["image_id"]) for row in reader.values(["image_id"])]


def require_captions(handle: SplitHandle) -> None:
    """Check that a split has captions, by its first row.

    Raises: DataError naming task and split for a data set without.
    """
    with SplitReader(handle) as reader:
        row = next(iter(reader.values(["captions"])), None)
    if row is not None and not row["captions"]:
        raise DataError(
            f"task {handle.task!r} has no captions in split {handle.split!r}, which retrieval "
            "learns from and is judged by: prepare it with a captions file, or with "
            "benchmark.options.caption_template"
        )


def read_images(handle: SplitHandle, rows: Sequence[int]) -> list[ShardRow]:
    """Read a few rows with their encoded images, in the order asked.

    Raises: DataError for a row that is not there.
    """
    with SplitReader(handle) as reader:
        found = {row.row: row for row in reader.rows(sorted(set(rows)))}
    return [found[row] for row in rows]


def broken_images(handle: SplitHandle) -> dict[int, Fault]:
    """Decode all images of a split and return those that fail: {number in the shards: fault}.

    Raises: DataError for a shard that cannot be read: no row's fault.
    """
    faults = Faults("quarantine")
    broken: dict[int, Fault] = {}
    with SplitReader(handle) as reader:
        for row in reader.rows(range(handle.rows)):
            with faults.row(handle.split, f"{handle.task}: {row.file_name}"):
                _image(row)
            if len(faults.found) > len(broken):
                broken[row.stored] = faults.found[-1]
    return broken


def _decode(
    row: ShardRow, transform: Transform, rng: np.random.Generator | None, handle: SplitHandle
) -> torch.Tensor:
    kept = row.cached
    found = None if kept is None else kept.read()
    if found is not None:
        return found
    if not row.image:  # it was in the cache a moment ago
        (row,) = read_images(handle, [row.row])
    pixels = transform(_image(row), rng)
    if kept is not None:
        kept.write(pixels)
    return pixels


def _image(row: ShardRow) -> Image.Image:
    return decode_image(row.image, f"{row.file_name} in shard {row.shard}", row.decoding)


def _stacked(images: Sequence[torch.Tensor], pin: bool) -> torch.Tensor:
    """Images [n, 3, H, W], put straight into pinned pages: this runs in the loader's thread."""
    if not pin:
        return torch.stack(list(images))
    out = torch.empty((len(images), *images[0].shape), dtype=images[0].dtype, pin_memory=True)
    return torch.stack(list(images), out=out)


def _micro_batch(
    slot: int, samples: Iterator[tuple[torch.Tensor, str, ShardRow]], count: int, pin: bool
) -> MicroBatch:
    part = [next(samples) for _ in range(count)]
    return MicroBatch(
        slot,
        _stacked([image for image, _, _ in part], pin),
        [caption for _, caption, _ in part],
        [row.image_id for _, _, row in part],
        [row.row for _, _, row in part],
    )
