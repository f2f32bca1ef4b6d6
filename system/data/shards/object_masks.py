"""The object masks of a split, without its images: what the Mask-VAE learns from."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from system.data.shards.manifest import SplitHandle
from system.data.shards.masks import mask_area, run_lengths
from system.data.shards.rows import SplitReader
from system.data.shards.schema import Mask
from system.errors import DataError

_COLUMNS = ("file_name", "masks")
_HALF = 127  # of 255: a pixel of which more than half is covered


@dataclass(frozen=True, slots=True)
class ObjectMask:
    """One instance's mask; `row` counts from 0 in the split's file order."""

    row: int
    instance: int
    mask: Mask


def read_object_masks(handle: SplitHandle) -> Iterator[ObjectMask]:
    """Every instance's mask of a split, in file order, still compressed.

    Raises: DataError naming the image and the instance whose mask covers nothing.
    """
    with SplitReader(handle) as reader:
        row = 0
        for group in range(len(reader.group_rows)):
            table = reader.read_group(group, _COLUMNS)
            columns = (table.column(name).to_pylist() for name in _COLUMNS)
            for file_name, masks in zip(*columns, strict=True):
                for instance, values in enumerate(masks):
                    mask = Mask(values["height"], values["width"], values["counts"])
                    if mask_area(mask) == 0:
                        raise DataError(
                            f"task {handle.task!r}, split {handle.split!r}, {file_name}: the mask "
                            f"of instance {instance} is empty; remove the instance from the "
                            "annotations, or prepare with on_error=quarantine",
                            "segmentation",
                        )
                    yield ObjectMask(row, instance, mask)
                row += 1


def mask_pixels(mask: Mask, size: int) -> Tensor:
    """A mask as [1, size, size]: 1 where it covers more than half of a pixel, -1 elsewhere.

    The image's frame is squeezed to a square. An object too thin to cover half of any pixel keeps
    the pixels that it covers most, so that none becomes empty.
    """
    runs = run_lengths(mask)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(mask.width, mask.height)
    image = Image.fromarray(columns.T * np.uint8(255))
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BOX)
    shares = np.asarray(image)
    inside = shares > min(_HALF, int(shares.max()) - 1)
    return torch.from_numpy(np.where(inside, np.float32(1), np.float32(-1)))[None]
