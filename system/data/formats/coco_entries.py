"""Entries of MSCOCO's annotation files (images, categories, boxes, masks)."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from sys import intern

from system.data.prepare.annotations import Entry
from system.data.shards.masks import mask_from_segmentation
from system.data.shards.schema import Mask
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

    def agrees_with(self, other: "ImageEntry") -> bool:
        """Whether another file gives the image the same name and size."""
        ours, theirs = ((i.file_name, i.width, i.height) for i in (self, other))
        return ours == theirs


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


def read_image(entry: Entry, id_field: str) -> ImageEntry:
    """Read an entry of a file's `images`.

    Raises: DataError naming the entry for a missing field or a size that is not positive.
    """
    image = ImageEntry(
        entry.get(id_field, int),
        entry.get("file_name", str),
        entry.get("width", int),
        entry.get("height", int),
        entry.where,
    )
    if image.width < 1 or image.height < 1:
        raise DataError(f"{entry.where}: fields 'width' and 'height' must be positive", "size")
    return image


def read_categories(entries: Iterable[Entry]) -> dict[int, tuple[str, str]]:
    """Read the entries of a file's `categories`: {id: (name, super-category, "" if it has none)}.

    Raises: DataError for a missing field or a duplicated id.
    """
    categories: dict[int, tuple[str, str]] = {}
    for entry in entries:
        identifier = unique_id(entry, "id", categories)
        super_category = entry.raw("supercategory")
        categories[identifier] = (
            intern(entry.get("name", str)),
            intern(super_category) if isinstance(super_category, str) else "",
        )
    return categories


def unique_id(entry: Entry, id_field: str, taken: Collection[int]) -> int:
    """Read an entry's number. Raises: DataError if it is missing or taken."""
    identifier = entry.get(id_field, int)
    if identifier in taken:
        raise DataError(f"{entry.where}: field {id_field!r} {identifier} is there twice")
    return identifier


def read_mask(entry: Entry, image: ImageEntry) -> Mask:
    """Read an annotation's `segmentation`. Raises: DataError if it does not fit the image."""
    try:
        return mask_from_segmentation(entry.raw("segmentation"), image.height, image.width)
    except DataError as error:
        raise DataError(f"{entry.where}: {error}", error.kind) from error


def find_category(entry: Entry, categories: dict[int, tuple[str, str]]) -> tuple[str, str]:
    """Look up an annotation's category. Raises: DataError if it is not in the file's."""
    identifier = entry.get("category_id", int)
    if identifier not in categories:
        raise DataError(
            f"{entry.where}: field 'category_id' {identifier} is not in the file's categories",
            "unknown category",
        )
    return categories[identifier]
