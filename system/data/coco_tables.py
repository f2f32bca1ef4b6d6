"""MSCOCO's annotation files as checked look-up tables."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import intern

from system.data.annotations import Entry, load_annotation_json
from system.data.masks import mask_from_segmentation
from system.data.schema import Instance
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


def _read_images(top: Entry) -> dict[int, ImageEntry]:
    images: dict[int, ImageEntry] = {}
    names: set[str] = set()
    for entry in top.entries("images"):
        image = ImageEntry(
            entry.get("id", int),
            entry.get("file_name", str),
            entry.get("width", int),
            entry.get("height", int),
            entry.where,
        )
        if image.id in images:
            raise DataError(f"{entry.where}: field 'id' {image.id} is there twice")
        if image.file_name in names:
            raise DataError(f"{entry.where}: field 'file_name' {image.file_name!r} is there twice")
        if image.width < 1 or image.height < 1:
            raise DataError(f"{entry.where}: fields 'width' and 'height' must be positive")
        images[image.id] = image
        names.add(image.file_name)
    return images


def _named_image(entry: Entry, images: Mapping[int, ImageEntry], listing: str) -> ImageEntry:
    image_id = entry.get("image_id", int)
    if image_id not in images:
        raise DataError(
            f"{entry.where}: field 'image_id' {image_id} names an image that is not in {listing}"
        )
    return images[image_id]


@dataclass(frozen=True)
class CaptionTable:
    """A captions file: its images, and the texts of each with where they stand."""

    images: dict[int, ImageEntry]
    texts: dict[int, list[tuple[str, str]]]

    @classmethod
    def read(cls, path: Path, field: str) -> "CaptionTable":
        """Read `captions_*.json`; `field` is the config field that names it.

        Raises: DataError for a missing field, a duplicated id or an image that is not listed.
        """
        top = Entry(load_annotation_json(path, field), str(path))
        images = _read_images(top)
        texts: dict[int, list[tuple[str, str]]] = {}
        ids: set[int] = set()
        for entry in top.entries("annotations"):
            _claim_id(entry, ids)
            image = _named_image(entry, images, "the file's images")
            texts.setdefault(image.id, []).append((entry.get("caption", str), entry.where))
        return cls(images, texts)


@dataclass(frozen=True)
class InstanceTable:
    """An instances file: its images, its categories and each image's objects."""

    images: dict[int, ImageEntry]
    image_of: dict[int, int]  # annotation id -> image id
    _categories: dict[int, tuple[str, str]]  # id -> name, super-category
    _entries: dict[int, list[Entry]]  # image id -> annotations in file order

    @classmethod
    def read(cls, path: Path, field: str, captioned: Mapping[int, ImageEntry]) -> "InstanceTable":
        """Read `instances_*.json`; `captioned` are the images of the captions file.

        Raises: DataError for a missing field, a duplicated id, an image or category that is not
        listed, or an image that the captions file describes otherwise.
        """
        top = Entry(load_annotation_json(path, field), str(path))
        images = _read_images(top)
        for image in images.values():
            other = captioned.get(image.id, image)
            if (image.file_name, image.width, image.height) != (
                other.file_name,
                other.width,
                other.height,
            ):
                raise DataError(
                    f"{image.where}: image {image.id} has another file name or size in "
                    f"{other.where}: the two files do not belong together"
                )
        categories: dict[int, tuple[str, str]] = {}
        for entry in top.entries("categories"):
            identifier = entry.get("id", int)
            if identifier in categories:
                raise DataError(f"{entry.where}: field 'id' {identifier} is there twice")
            categories[identifier] = (
                intern(entry.get("name", str)),
                intern(entry.get("supercategory", str)),
            )
        image_of: dict[int, int] = {}
        ids: set[int] = set()
        entries: dict[int, list[Entry]] = {}
        for entry in top.entries("annotations"):
            identifier = _claim_id(entry, ids)
            category = entry.get("category_id", int)
            if category not in categories:
                raise DataError(
                    f"{entry.where}: field 'category_id' {category} is not in the file's categories"
                )
            image_of[identifier] = _named_image(entry, images, "the file's images").id
            entries.setdefault(image_of[identifier], []).append(entry)
        return cls(images, image_of, categories, entries)

    def of_image(self, image: ImageEntry) -> list[tuple[int, Instance]]:
        """Build an image's instances, each with its annotation id, and forget their JSON.

        Raises: DataError for a box outside the image or a segmentation that does not fit it.
        """
        return [
            (entry.get("id", int), self._instance(entry, image))
            for entry in self._entries.pop(image.id, [])
        ]

    def _instance(self, entry: Entry, image: ImageEntry) -> Instance:
        name, super_category = self._categories[entry.get("category_id", int)]
        try:
            mask = mask_from_segmentation(entry.raw("segmentation"), image.height, image.width)
        except DataError as error:
            raise DataError(f"{entry.where}: {error}") from error
        return Instance(_read_box(entry, image), name, super_category, mask)


def _claim_id(entry: Entry, ids: set[int]) -> int:
    identifier = entry.get("id", int)
    if identifier in ids:
        raise DataError(f"{entry.where}: field 'id' {identifier} is there twice")
    ids.add(identifier)
    return identifier


def _read_box(entry: Entry, image: ImageEntry) -> tuple[float, float, float, float]:
    box = entry.get("bbox", list)
    if len(box) != 4 or not all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in box
    ):
        raise DataError(f"{entry.where}: field 'bbox' is not four numbers (x, y, width, height)")
    x, y, width, height = (float(value) for value in box)
    if (
        min(x, y) < -_BOX_SLACK
        or min(width, height) < 0
        or x + width > image.width + _BOX_SLACK
        or y + height > image.height + _BOX_SLACK
    ):
        raise DataError(
            f"{entry.where}: field 'bbox' {box} lies outside the image {image.file_name!r} of "
            f"{image.width} x {image.height} pixels"
        )
    return x, y, width, height


def read_expressions(
    path: Path,
    field: str,
    split: str,
    images: Mapping[int, ImageEntry],
    image_of: Mapping[int, int],
) -> dict[int, list[tuple[int, str, str]]]:
    """Read `refs_*.json` (UNC's structure): {image id: [(annotation id, text, where)]}.

    Entries of other splits are passed over, as one published file holds them all.
    Raises: DataError for a missing field, a duplicated id, an image or annotation that is not
    there, or a file without any entry of this split.
    """
    content = load_annotation_json(path, field)
    top = Entry({"refs": content}, str(path))
    expressions: dict[int, list[tuple[int, str, str]]] = {}
    ids: set[int] = set()
    for entry in top.entries("refs"):
        identifier = entry.get("ref_id", int)
        if identifier in ids:
            raise DataError(f"{entry.where}: field 'ref_id' {identifier} is there twice")
        ids.add(identifier)
        if entry.get("split", str) != split:
            continue
        image = _named_image(entry, images, "the instances file's images")
        instance = entry.get("ann_id", int)
        if image_of.get(instance) != image.id:
            raise DataError(
                f"{entry.where}: field 'ann_id' {instance} is no instance of image {image.id}"
            )
        for sentence in entry.entries("sentences"):
            expressions.setdefault(image.id, []).append(
                (instance, sentence.get("sent", str), sentence.where)
            )
    if not expressions:
        raise DataError(f"{path}: holds no expression of split {split!r}: correct {field}")
    return expressions
