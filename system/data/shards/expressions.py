"""The referring expressions of a split with what they refer to, without the images."""

from collections.abc import Iterator
from dataclasses import dataclass

from system.data.shards.manifest import SplitHandle
from system.data.shards.rows import SplitReader
from system.data.shards.schema import Mask
from system.errors import DataError

_COLUMNS = ("file_name", "width", "height", "boxes", "masks", "super_categories", "expressions")


@dataclass(frozen=True, slots=True)
class ReferredExpression:
    """One expression; its number in the split is its place in `read_expressions`.

    `row` counts from 0 in the split's file order. The box is left, top, right, bottom as shares of
    the image's width and height.
    """

    row: int
    instance: int
    text: str
    box: tuple[float, float, float, float]
    mask: Mask
    super_category: str


def read_expressions(handle: SplitHandle) -> Iterator[ReferredExpression]:
    """Every expression of a split, row by row in file order, each row's in the annotations' order.

    Raises: DataError naming the image and the expression whose object has no box or no area.
    """
    with SplitReader(handle) as reader:
        row = 0
        for group in range(len(reader.group_rows)):
            for values in reader.read_group(group, _COLUMNS).to_pylist():
                for expression in values["expressions"]:
                    instance, text = expression["instance"], expression["text"]
                    where = (
                        f"task {handle.task!r}, split {handle.split!r}, {values['file_name']}: the "
                        f"expression {text!r}"
                    )
                    if not 0 <= instance < len(values["boxes"]):
                        raise DataError(
                            f"{where} refers to instance {instance}, which has no box; correct or "
                            "remove it",
                            "expression without a box",
                        )
                    left, top, width, height = values["boxes"][instance]
                    if not (width > 0 and height > 0):
                        raise DataError(
                            f"{where} refers to a box without area; correct or remove it",
                            "expression without a box",
                        )
                    mask = values["masks"][instance]
                    yield ReferredExpression(
                        row,
                        instance,
                        text,
                        (
                            left / values["width"],
                            top / values["height"],
                            (left + width) / values["width"],
                            (top + height) / values["height"],
                        ),
                        Mask(mask["height"], mask["width"], mask["counts"]),
                        values["super_categories"][instance],
                    )
                row += 1
