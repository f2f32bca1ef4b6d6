"""Objects of a split, read without its images: referring expressions and masks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from system.data.shards.manifest import SplitHandle
from system.data.shards.masks import mask_area, run_lengths
from system.data.shards.schema import Mask, Span, spans_of
from system.data.shards.shard_reader import SplitReader
from system.errors import DataError

_COLUMNS = ("file_name", "width", "height", "boxes", "masks", "super_categories", "expressions")
_MASK_COLUMNS = ("file_name", "masks")
_HALF = 127  # of 255: a pixel of which more than half is covered
_FIRST_NAMES = 3

Box = tuple[float, float, float, float]


@dataclass
class LeftOut:
    """Objects or expressions that cannot be used, such as those without area; a few by name."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.first) < _FIRST_NAMES:
            self.first.append(name)

    @property
    def named(self) -> str:
        """The first few, by name."""
        return "; ".join(self.first) + (", ..." if self.count > len(self.first) else "")

    def __str__(self) -> str:
        return f"left out {self.count:,} without area: {self.named}"


@dataclass(frozen=True, slots=True)
class ReferredExpression:
    """One expression; its number in the split is its place in `read_expressions`.

    `row` counts from 0 in the split's file order. The box is left, top, right, bottom as shares of
    the image's width and height; its `area` is in square pixels of the image as distributed, before
    any model resizes it. `others` are further boxes that the expression refers to; `spans` the
    characters of its text that name the object, all words if there are none.
    """

    row: int
    instance: int
    text: str
    box: Box
    mask: Mask
    super_category: str
    area: float
    width: int  # of the image as distributed, in pixels
    height: int
    spans: tuple[Span, ...] = ()
    others: tuple[Box, ...] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All boxes that it refers to, its own first."""
        return (self.box, *self.others)


def read_expressions(
    handle: SplitHandle, left_out: LeftOut | None = None
) -> Iterator[ReferredExpression]:
    """Read the expressions of a split in file order, each row's in the annotations' order.

    One whose object's box has no area can be neither found nor learned: it is left out, and
    counted in `left_out`.
    Raises: DataError naming the image and the expression whose object has no box.
    """
    with SplitReader(handle) as reader:
        for row, values in enumerate(reader.values(_COLUMNS)):
            for expression in values["expressions"]:
                instance, text = expression["instance"], expression["text"]
                where = (
                    f"task {handle.task!r}, split {handle.split!r}, {values['file_name']}: the "
                    f"expression {text!r}"
                )
                own, *others = [
                    _box(values, one, where) for one in (instance, *expression.get("others", ()))
                ]
                if own is None:
                    if left_out is not None:
                        left_out.add(where)
                    continue
                _, _, width, height = values["boxes"][instance]
                yield ReferredExpression(
                    row,
                    instance,
                    text,
                    own,
                    Mask(**values["masks"][instance]),
                    values["super_categories"][instance],
                    width * height,
                    values["width"],
                    values["height"],
                    spans_of(expression),
                    tuple(box for box in others if box is not None),
                )


def _box(values: Mapping[str, Any], instance: int, where: str) -> Box | None:
    """An instance's box in shares of the image; None if it has no area."""
    if not 0 <= instance < len(values["boxes"]):
        raise DataError(
            f"{where} refers to instance {instance}, which has no box; correct or remove it",
            "expression without a box",
        )
    left, top, width, height = values["boxes"][instance]
    if not (width > 0 and height > 0):
        return None
    return (
        left / values["width"],
        top / values["height"],
        (left + width) / values["width"],
        (top + height) / values["height"],
    )


def with_masks(
    handle: SplitHandle, expressions: Iterable[ReferredExpression], left_out: LeftOut
) -> list[ReferredExpression]:
    """The expressions of a split whose object's mask covers a pixel; the others are counted."""
    kept = []
    for entry in expressions:
        if mask_area(entry.mask):
            kept.append(entry)
        else:
            left_out.add(
                f"task {handle.task!r}, split {handle.split!r}, row {entry.row}: the expression "
                f"{entry.text!r}"
            )
    return kept


@dataclass(frozen=True, slots=True)
class ObjectMask:
    """One instance's mask; `row` counts from 0 in the split's file order."""

    row: int
    instance: int
    mask: Mask


def read_object_masks(handle: SplitHandle, left_out: LeftOut | None = None) -> Iterator[ObjectMask]:
    """Read the instances' masks of a split, in file order, still compressed.

    One that covers no pixel (an outline of no area, a box smaller than a pixel) is left out, and
    counted in `left_out`.
    """
    with SplitReader(handle) as reader:
        for row, values in enumerate(reader.values(_MASK_COLUMNS)):
            for instance, fields in enumerate(values["masks"]):
                mask = Mask(**fields)
                if mask_area(mask):
                    yield ObjectMask(row, instance, mask)
                elif left_out is not None:
                    left_out.add(
                        f"task {handle.task!r}, split {handle.split!r}, {values['file_name']}: "
                        f"instance {instance}"
                    )


def mask_pixels(mask: Mask, size: int) -> Tensor:
    """Rasterise a mask as [1, size, size]: 1 where it covers more than half a pixel, -1 elsewhere.

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


def subsample(count: int, most: int | None) -> Sequence[int]:
    """Choose all of `count` places in order, or `most` of them, a random one per equal stretch.

    Samples at even distances would be of one kind: of eight expressions per image, sorted by place,
    each sixteenth one is about the top left.

    The choice depends on the two numbers alone, so all runs and workers make the same one.
    """
    if most is None or count <= most:
        return range(count)
    ends = np.linspace(0, count, most + 1).astype(int)
    places: list[int] = np.random.default_rng([count, most]).integers(ends[:-1], ends[1:]).tolist()
    return places
