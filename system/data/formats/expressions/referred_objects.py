"""Objects that expressions refer to, whichever file says so, and MSCOCO's instances behind them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from system.data.formats.coco_entries import (
    ImageEntry,
    entry_with_id,
    find_category,
    read_box,
    read_image,
    read_mask,
    unique_id,
)
from system.data.prepare.annotations import Entry, read_lists
from system.data.shards.faults import Faults
from system.data.shards.schema import Instance, Span
from system.errors import DataError


class Published(NamedTuple):
    """An expression's text as published, where it stands, and what of it names the object."""

    text: str
    where: str
    spans: tuple[Span, ...] = ()  # begin and end in characters; none: the file does not say


@dataclass(slots=True)
class ReferredObject:
    """An object of an image and the expressions that refer to it.

    `id` is that of its annotation in MSCOCO, `task` what a file of tasks says of it, if there is
    one.
    """

    id: str
    image: ImageEntry
    instance: Instance
    expressions: list[Published] = field(default_factory=list)
    task: str | None = None


class ReferredObjects:
    """One split's objects in the order of first mention, each once, with all expressions."""

    def __init__(self) -> None:
        self._objects: dict[str, ReferredObject] = {}
        self._images: dict[str, ImageEntry] = {}

    def __iter__(self) -> Iterator[ReferredObject]:
        return iter(self._objects.values())

    def add(self, referred: ReferredObject) -> None:
        """Add an object, or further expressions of a known one.

        Raises: DataError if it or its image was described otherwise before.
        """
        image = self._images.setdefault(referred.image.id, referred.image)
        if not image.agrees_with(referred.image):
            raise DataError(
                f"{referred.image.where}: image {image.id} has another file name or size than in "
                f"{image.where}",
                "image described twice",
            )
        known = self._objects.setdefault(referred.id, referred)
        if known is referred:
            return
        if known.image.id != image.id or known.instance != referred.instance:
            raise DataError(
                f"{referred.image.where}: object {referred.id} has another image, box, category or "
                f"mask than in {known.image.where}",
                "object described twice",
            )
        if known.task != referred.task:
            raise DataError(
                f"{referred.expressions[0].where}: object {referred.id} is of task "
                f"{referred.task!r} here and of {known.task!r} in {known.expressions[0].where}",
                "object of two tasks",
            )
        known.expressions.extend(referred.expressions)


class ObjectTable:
    """MSCOCO's instances file: its images, and some of its annotations, by id."""

    def __init__(self, path: Path, option: str, wanted: Collection[str], faults: Faults) -> None:
        """Read `instances*.json`, of which `option` is the config field.

        `wanted` are the ids of the annotations that will be asked for; only these are kept, and the
        file, which is large, is read entry by entry. An entry without an id is a broken row of the
        split "all".
        Raises: DataError for a duplicated id or, through `faults`, a missing one.
        """
        self.path = path
        found: dict[str, dict[str, Entry]] = {"images": {}, "categories": {}, "annotations": {}}
        taken: set[str] = set()
        for listing, where, content in read_lists(path, option, tuple(found)):
            entry = entry_with_id(content, where, "id", "all", faults)
            if entry is None:
                continue
            if listing == "annotations":
                identifier = unique_id(entry, "id", taken)
                taken.add(identifier)
                if identifier in wanted:
                    found[listing][identifier] = entry
            else:
                found[listing][unique_id(entry, "id", found[listing])] = entry
        self._images, self._categories, self._entries = found.values()

    def image(self, identifier: str, where: str) -> ImageEntry:
        """Find an image; `where` is what names it, for the error.

        Raises: DataError if the file does not have it or its entry is broken.
        """
        if identifier not in self._images:
            raise DataError(
                f"{where}: field 'image_id' {identifier} names an image that is not in {self.path}",
                "unknown image",
            )
        return read_image(self._images[identifier], "id")

    def find(self, identifier: str, image_id: str, where: str) -> Entry:
        """Find an annotation of an image; `where` is what names it, for the error.

        Raises: DataError if the file does not have it, or has it in another image.
        """
        entry = self._entries.get(identifier)
        if entry is None or entry.identifier("image_id") != image_id:
            raise DataError(
                f"{where}: {self.path} has no annotation {identifier} of image {image_id}: do the "
                "two files belong together?",
                "unknown annotation",
            )
        return entry

    def category(self, entry: Entry) -> tuple[str, str]:
        """Name an annotation's category and super-category.

        Raises: DataError if it has none of the file's categories.
        """
        return find_category(entry, self._categories)

    def instance(self, entry: Entry, image: ImageEntry) -> Instance:
        """Build an annotation's instance.

        Raises: DataError for a box outside the image or a segmentation that does not fit it.
        """
        box = read_box(entry, image)
        return Instance(box, *self.category(entry), read_mask(entry, box, image))
