"""Karpathy's split files of MSCOCO and Flickr30k: each image with its split and its captions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from system.data.prepare.annotations import Entry, read_items, shortened
from system.data.shards.faults import Faults
from system.errors import DataError

#: MSCOCO has "restval": images of val2014 that are in neither "val" nor "test".
KARPATHY_SPLITS = ("train", "restval", "val", "test")

_MAX_NUMBER = 2**63 - 1  # of a running number; an id, as MSCOCO's, may be any


@dataclass(frozen=True, slots=True)
class KarpathyImage:
    """One image: `id` as the data set numbers it, `folder` ("" if the file names none).

    `captions` are pairs of a sentence as it was written and its place in the file, for messages.
    """

    id: str
    file_name: str
    folder: str
    split: str
    captions: tuple[tuple[str, str], ...]
    where: str


def read_karpathy(path: Path, field: str, faults: Faults | None = None) -> Iterator[KarpathyImage]:
    """Go through `dataset_coco.json` or `dataset_flickr30k.json`, one image in memory at a time.

    `field` is the config field that names the file. The id is MSCOCO's (`cocoid`) where there is
    one, else the file's own (`imgid`). Neither folder nor file name is checked against the disk:
    that is for `safe_image_path`. Without `faults` a broken entry ends the reading.
    Source: Karpathy & Fei-Fei (arXiv 1412.2306), the archive `caption_datasets`.
    Raises: DataError naming file, entry and field for a file that is missing or not JSON, an id or
    file name that is there twice and, through `faults`, an entry with a missing field, an unknown
    split or no sentences.
    """
    ids: set[str] = set()
    names: set[tuple[str, str]] = set()
    faults = faults or Faults("stop")
    number = None
    for number, (where, content) in enumerate(read_items(path, field, "images")):
        images: list[KarpathyImage] = []
        with faults.row(*_name(content, number)):
            images.append(_image(Entry(content, where)))
        for image in images:  # none, if it was broken
            if image.id in ids:
                raise DataError(f"{image.where}: image {image.id} is there twice")
            if (image.folder, image.file_name) in names:
                raise DataError(
                    f"{image.where}: field 'filename' {image.file_name!r} is there twice"
                )
            ids.add(image.id)
            names.add((image.folder, image.file_name))
            yield image
    if number is None:
        raise DataError(
            f"{path}: its list 'images' is empty: {field} must name a file of Karpathy's "
            "caption_datasets"
        )


def _name(content: object, number: int) -> tuple[str, str]:
    """Name the split and the image of an entry that may be broken."""
    fields = content if isinstance(content, dict) else {}
    return str(fields.get("split", "unknown")), str(fields.get("filename", f"images[{number}]"))


def _image(entry: Entry) -> KarpathyImage:
    split = entry.get("split", str)
    if split not in KARPATHY_SPLITS:
        raise DataError(
            f"{entry.where}: field 'split' is {shortened(split)}, not one of "
            f"{', '.join(KARPATHY_SPLITS)}"
        )
    captions = tuple(
        (sentence.get("raw", str), sentence.where) for sentence in entry.entries("sentences")
    )
    if not captions:
        raise DataError(f"{entry.where}: field 'sentences' is empty")
    return KarpathyImage(
        _running_number(entry) if entry.raw("cocoid") is None else entry.identifier("cocoid"),
        entry.get("filename", str),
        "" if entry.raw("filepath") is None else entry.get("filepath", str),
        split,
        captions,
        entry.where,
    )


def _running_number(entry: Entry) -> str:
    number = entry.get("imgid", int)
    if not 0 <= number <= _MAX_NUMBER:
        size = "too large" if number > 0 else "negative"
        raise DataError(
            f"{entry.where}: field 'imgid' {shortened(number)} is {size}: it counts the file's "
            "images from 0"
        )
    return str(number)
