"""A prepared benchmark of disks and squares, small enough to train on in tests."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from system.data.prepare.origin import Origin
from system.data.prepare.shard_writer import write_shards
from system.data.shards.faults import Faults
from system.data.shards.manifest import Manifest
from system.data.shards.schema import Expression, ImageRecord, Instance, Mask
from tests.data.coco_files import png

SIDE = 16
TASKS = ("disk", "square")
SPLITS = {"train": 24, "val": 6, "test": 6}


def shape(task: str, index: int) -> NDArray[np.uint8]:
    """A disk or a square [SIDE, SIDE] at a place of its own."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    draw = np.random.default_rng([TASKS.index(task), index])
    top, left = draw.integers(4, SIDE - 4, 2)
    radius = int(draw.integers(3, 5))
    vertical, horizontal = abs(rows - top), abs(columns - left)
    if task == "square":
        covered = np.maximum(vertical, horizontal) <= radius
    else:
        covered = vertical**2 + horizontal**2 <= radius**2
    return np.asarray(covered, np.uint8)


def compressed(covered: NDArray[np.uint8]) -> Mask:
    """A mask as shards hold it."""
    counts = coco_mask.encode(np.asfortranarray(covered))["counts"]
    return Mask(covered.shape[0], covered.shape[1], counts)


class _Shapes:
    """One split: an image a row, half of the rows in each task.

    Row `empty` covers nothing, row `boxless` has a box without area; a `bare` one has no objects.
    """

    def __init__(
        self, first: int, count: int, empty: int | None, boxless: int | None, bare: bool
    ) -> None:
        self.fingerprint = f"shapes {first} {count} {empty} {boxless}" + " bare" * bare
        self._bare = bare
        self._first, self._count, self._empty, self._boxless = first, count, empty, boxless

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{self._first + index}.png"

    def load(self, index: int) -> ImageRecord:
        task = TASKS[2 * index // self._count]
        number = self._first + index
        covered = shape(task, number) * np.uint8(index != self._empty)
        side = 0.0 if index == self._boxless else 4.0
        return ImageRecord(
            image_id=str(number),
            file_name=self.name(index),
            image=png((SIDE, SIDE), number),
            width=SIDE,
            height=SIDE,
            captions=(f"a {task}",),
            task=task,
            instances=()
            if self._bare
            else (Instance((0.0, 0.0, side, side), task, task, compressed(covered)),),
            expressions=() if self._bare else (Expression(0, f"the {task}"),),
        )


def prepare_shapes(
    root: Path,
    empty: int | None = None,
    boxless: int | None = None,
    *,
    bare: bool = False,
    name: str = "shapes",
) -> Manifest:
    """Write the benchmark `name` below `root`; see `_Shapes` for the two rows of train.

    One of another name than its default records what it came from, as only new ones do.
    """
    first, splits = 0, {}
    for split, count in SPLITS.items():
        broken = (empty, boxless) if split == "train" else (None, None)
        splits[split] = _Shapes(first, count, *broken, bare)
        first += count
    return write_shards(
        splits,
        str(root / name),
        benchmark=name,
        tasks=TASKS,
        source=Origin.of("coco", {}).to_source() if name != "shapes" else {},
        faults=Faults("stop"),
    )


def mask_vae_sweep(root: Path, *more: str) -> list[str]:
    """Overrides of a sweep over the Mask-VAE on these shapes: one trial config, more by `more`."""
    return [
        "tune=mask_vae",
        "benchmark.name=shapes",
        f"storage_path={root / 'runs'}",
        f"data_path={root}",
        f"stage.vae.image_size={SIDE}",
        "stage.batch_size=8",
        "tune.space.stage.vae.channels.grid=[[4,8]]",
        "tune.space.stage.vae.latent_channels.grid=[4]",
        *more,
    ]
