"""Entries of MSCOCO's annotation files (images, categories, boxes, masks)."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from sys import intern

from system.data.prepare.annotations import Entry
from system.data.shards.faults import Faults
from system.data.shards.images import MAX_PIXELS
from system.data.shards.masks import mask_from_box, mask_from_segmentation
from system.data.shards.schema import Mask
from system.errors import DataError

Box = tuple[float, float, float, float]

# Published boxes are rounded, so they may reach this far beyond the image (pixels).
_BOX_SLACK = 1.0


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One entry of a file's `images`, and where it stands."""

    id: str
    file_name: str
    width: int
    height: int
    where: str

    def agrees_with(self, other: "ImageEntry") -> bool:
        """Whether another file gives the image the same name and size."""
        ours, theirs = ((i.file_name, i.width, i.height) for i in (self, other))
        return ours == theirs


def read_box(entry: Entry, image: ImageEntry) -> Box:
    """Read an annotation's `bbox` (left, top, width, height in pixels).

    Raises: DataError if it is not four numbers or lies outside the image by more than a rounding.
    """
    numbers = entry.get("bbox", list)
    what = f"{entry.where}: field 'bbox'"
    return checked_box(four_numbers(numbers, what), image, what)


def four_numbers(values: Sequence[object], what: str) -> Box:
    """Return x, y, width and height; `what` names them in the error.

    Raises: DataError if they are not four finite numbers.
    """
    if len(values) != 4 or not all(map(_is_number, values)):
        raise DataError(f"{what} is not four numbers (x, y, width, height)", "box")
    x, y, width, height = (float(value) for value in values)  # type: ignore[arg-type]
    return x, y, width, height


def checked_box(box: Box, image: ImageEntry, what: str) -> Box:
    """Return a box (left, top, width, height in pixels) of an image; `what` names it in the error.

    Raises: DataError if it lies outside the image by more than a rounding.
    """
    x, y, width, height = box
    if (
        min(x, y) < -_BOX_SLACK
        or min(width, height) < 0
        or x + width > image.width + _BOX_SLACK
        or y + height > image.height + _BOX_SLACK
    ):
        raise DataError(
            f"{what} {list(box)} lies outside the image {image.file_name!r} of {image.width} x "
            f"{image.height} pixels",
            "box",
        )
    return box


def enclosing_box(boxes: Sequence[Box]) -> Box:
    """The smallest box (left, top, width, height) around some."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right = max(box[0] + box[2] for box in boxes)
    bottom = max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top


def _is_number(value: object) -> bool:
    if isinstance(value, int):  # which may be too large for a float
        return not isinstance(value, bool) and abs(value) <= MAX_PIXELS
    return isinstance(value, float) and math.isfinite(value)


def read_image(entry: Entry, id_field: str) -> ImageEntry:
    """Read an entry of a file's `images`.

    Raises: DataError naming the entry for a missing field or a size that no image has.
    """
    return sized_image(entry, entry.identifier(id_field), entry.get("file_name", str))


def sized_image(entry: Entry, identifier: str, file_name: str) -> ImageEntry:
    """Make an image of an entry that says its `width` and `height` in pixels.

    Raises: DataError naming the entry for a missing field or a size that no image has.
    """
    width, height = entry.get("width", int), entry.get("height", int)
    image = ImageEntry(identifier, file_name, width, height, entry.where)
    if image.width < 1 or image.height < 1:
        raise DataError(f"{entry.where}: fields 'width' and 'height' must be positive", "size")
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{entry.where}: fields 'width' and 'height' say {image.width} x {image.height} "
            f"pixels, more than the {MAX_PIXELS} that are decoded: correct or remove it",
            "too large image",
        )
    return image


def read_category(entry: Entry) -> tuple[str, str]:
    """Read an entry of a file's `categories`: its name and super-category, "" if it has none.

    Raises: DataError for a missing field.
    """
    given = entry.raw("supercategory")
    super_category = entry.get("supercategory", str) if isinstance(given, str) else ""
    return intern(entry.get("name", str)), intern(super_category)


def unique_id(entry: Entry, id_field: str, taken: Collection[str]) -> str:
    """Read an entry's id. Raises: DataError if it is missing or taken."""
    identifier = entry.identifier(id_field)
    if identifier in taken:
        raise DataError(f"{entry.where}: field {id_field!r} {identifier} is there twice")
    return identifier


def has_outline(entry: Entry) -> bool:
    """Whether an annotation has a `segmentation`: not if it is missing, null or empty."""
    segmentation = entry.raw("segmentation")
    if isinstance(segmentation, list):
        return any(polygon != [] for polygon in segmentation)
    if isinstance(segmentation, dict):
        return segmentation.get("counts", True) not in ("", [], None)
    return segmentation is not None and segmentation != ""


def read_mask(entry: Entry, box: Box, image: ImageEntry) -> Mask:
    """Read an annotation's outline: its `segmentation`, or its box if it has none.

    A detection export has no outlines; one of no area is an empty mask.
    Raises: DataError if it does not fit the image.
    """
    if not has_outline(entry):
        return mask_from_box(box, image.height, image.width)
    try:
        return mask_from_segmentation(entry.raw("segmentation"), image.height, image.width)
    except DataError as error:
        raise DataError(f"{entry.where}: {error}", error.kind) from error


def find_category(entry: Entry, categories: Mapping[str, Entry]) -> tuple[str, str]:
    """Look up an annotation's category: its name and super-category, "" if it has none.

    `categories` are the entries of its file's. Raises: DataError if it is not one of them.
    """
    identifier = entry.identifier("category_id")
    if identifier not in categories:
        raise DataError(
            f"{entry.where}: field 'category_id' {identifier} is not in the file's categories",
            "unknown category",
        )
    return read_category(categories[identifier])


def entry_with_id(
    content: object, where: str, id_field: str, split: str, faults: Faults
) -> Entry | None:
    """Make an entry that has an id; None for a broken row, which is one of this split.

    Raises: DataError, through `faults`.
    """
    with faults.row(split, where):
        entry = Entry(content, where)
        entry.identifier(id_field)
        return entry
    return None
