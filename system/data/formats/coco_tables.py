"""Parts of MSCOCO's annotation entries that other data sets use too."""

import math
from dataclasses import dataclass

from system.data.prepare.annotations import Entry
from system.errors import DataError

# Published boxes are rounded, so they may reach this far beyond the image (pixels).
_BOX_SLACK = 1.0


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One entry of a file's `images`, and where it stands."""

    id: int
    file_name: str
    width: int
    height: int
    where: str


def read_box(entry: Entry, image: ImageEntry) -> tuple[float, float, float, float]:
    """Read an annotation's `bbox` (left, top, width, height in pixels).

    Raises: DataError if it is not four numbers or lies outside the image by more than a rounding.
    """
    box = entry.get("bbox", list)
    if len(box) != 4 or not all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in box
    ):
        raise DataError(
            f"{entry.where}: field 'bbox' is not four numbers (x, y, width, height)", "box"
        )
    x, y, width, height = (float(value) for value in box)
    if (
        min(x, y) < -_BOX_SLACK
        or min(width, height) < 0
        or x + width > image.width + _BOX_SLACK
        or y + height > image.height + _BOX_SLACK
    ):
        raise DataError(
            f"{entry.where}: field 'bbox' {box} lies outside the image {image.file_name!r} of "
            f"{image.width} x {image.height} pixels",
            "box",
        )
    return x, y, width, height
