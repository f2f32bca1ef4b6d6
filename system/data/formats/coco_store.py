"""MSCOCO's annotation files in a temporary database, looked up by image.

The files are half a gigabyte of JSON in no useful order, and a row needs all entries of its image.
"""

import marshal  # of what this process has written itself, in a temporary file
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection, IntegrityError

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
from system.data.prepare.dataset import Progress
from system.data.prepare.json_text import Unreadable
from system.data.prepare.temporary_files import temporary_database, temporary_space
from system.data.shards.faults import Faults
from system.data.shards.images import MAX_PIXELS
from system.data.shards.schema import Instance
from system.errors import DataError

_TABLES = (
    "CREATE TABLE images (listing TEXT, id TEXT, file_name TEXT, width INTEGER, height INTEGER,"
    " file INTEGER, place INTEGER, fault BLOB, PRIMARY KEY (listing, id),"
    " UNIQUE (listing, file_name))",
    "CREATE TABLE entries (kind TEXT, id TEXT, image TEXT, file INTEGER, place INTEGER,"
    " content BLOB, fault BLOB, PRIMARY KEY (kind, id))",
    "CREATE INDEX entries_by_image ON entries (kind, image)",
)
# Entries of a kind that name an image which is not in the listing that they go by.
_STRAYS = (
    "SELECT entries.place, entries.image FROM entries LEFT JOIN images"
    " ON images.listing = ? AND images.id = entries.image"
    " WHERE entries.kind = ? AND entries.file = ? AND images.id IS NULL ORDER BY entries.place"
)
_IMAGE = "SELECT id, file_name, width, height, file, place, fault FROM images"
_KEPT = {
    "instance": ("category_id", "bbox", "segmentation"),
    "caption": ("caption",),
    "expression": ("ann_id", "sentences"),
}


class CocoStore:
    """The annotation files of one split: its images, and each image's objects and texts.

    Memory does not grow with the files. For use in a `with` block. An entry of an image that cannot
    be read breaks its image: reading that raises the DataError. What belongs to no image is a
    broken row by itself, handled by `faults` and named by its place in the file.
    Raises: DataError for a file that is missing, damaged, without a list that it must have, or with
    two entries of one id; StorageError if the database has no room.
    """

    def __init__(
        self, database: Connection, split: str, faults: Faults, progress: Progress | None
    ) -> None:
        self._split, self._faults, self._progress = split, faults, progress
        self._files: list[Path] = []
        self._categories: dict[str, Entry] = {}
        self._database = database
        for table in _TABLES:
            database.execute(table)

    @classmethod
    @contextmanager
    def opened(
        cls, split: str, faults: Faults, progress: Progress | None = None
    ) -> Iterator["CocoStore"]:
        """Make an empty store in a temporary database, which ends with the `with` block."""
        with temporary_database() as database, temporary_space():
            yield cls(database, split, faults, progress)

    def add_instances(self, path: Path, field: str) -> None:
        """Read `instances_*.json`, of which there may be several; `field` names it in the config.

        Raises: DataError, also for a category that two files describe differently.
        """
        file = self._add_file(path)
        found: dict[str, Entry] = {}
        for listing, place, where, content in self._items(
            path, field, "images", "categories", "annotations"
        ):
            if listing == "images":
                self._add_image(file, place, where, content)
            elif listing == "annotations":
                self._add_entry("instance", file, place, where, content)
            else:
                entry = entry_with_id(content, where, "id", self._split, self._faults)
                if entry is not None:
                    found[unique_id(entry, "id", found)] = entry
        for identifier, entry in found.items():
            other = self._categories.get(identifier, entry)
            if any(entry.raw(key) != other.raw(key) for key in ("name", "supercategory")):
                raise DataError(
                    f"{entry.where}: category {identifier} is another one in {other.where}: the "
                    "files do not belong together"
                )
        self._categories |= found
        self._report_strays("instance", "instances", file)

    def add_captions(self, path: Path, field: str) -> None:
        """Read `captions_*.json`; `field` names it in the config.

        Its images need no more than an id, then size and name are those of the instances file.
        """
        file = self._add_file(path)
        for listing, place, where, content in self._items(path, field, "images", "annotations"):
            if listing == "images":
                self._add_described(file, place, where, content)
            else:
                self._add_entry("caption", file, place, where, content)
        self._report_strays("caption", "captions", file)

    def add_expressions(self, path: Path, field: str) -> None:
        """Read `refs_*.json` (UNC's structure, as JSON); `field` names it in the config.

        Entries of other splits are passed over, as one published file holds them all.
        Raises: DataError, also for a file without any entry of this split.
        """
        file = self._add_file(path)
        added = 0
        for _, place, where, content in self._items(path, field, ""):
            if isinstance(content, dict) and content.get("split") not in (self._split, None):
                continue
            added += self._add_entry("expression", file, place, where, content)
        if not added:
            raise DataError(
                f"{path}: holds no expression of split {self._split!r}: correct {field}"
            )
        self._report_strays("expression", "instances", file)

    def __len__(self) -> int:
        """Return the number of images in the instances files."""
        query = "SELECT count(*) FROM images WHERE listing = 'instances' AND fault IS NULL"
        return int(self._database.execute(query).fetchone()[0])

    def images(self) -> Iterator[ImageEntry]:
        """Go through the images of the instances files, in their order."""
        query = f"{_IMAGE} WHERE listing = 'instances' AND fault IS NULL ORDER BY rowid"
        for row in self._database.execute(query):
            yield self._image(row)

    def image(self, identifier: str) -> ImageEntry | None:
        """Find an image of the instances files, None if it is not there."""
        query = f"{_IMAGE} WHERE listing = 'instances' AND id = ? AND fault IS NULL"
        row = self._database.execute(query, (identifier,)).fetchone()
        return None if row is None else self._image(row)

    def only_captioned(self) -> int:
        """Count the images of the captions file that are in no instances file."""
        query = (
            "SELECT count(*) FROM images AS a LEFT JOIN images AS b ON b.listing = 'instances'"
            " AND b.id = a.id WHERE a.listing = 'captions' AND b.id IS NULL"
        )
        return int(self._database.execute(query).fetchone()[0])

    def instances(self, image: ImageEntry) -> list[tuple[str, Instance]]:
        """Build an image's instances, each with its annotation id, in file order.

        Raises: DataError for a box outside the image or a segmentation that does not fit it.
        """
        return [
            (identifier, self._instance(entry, image))
            for identifier, entry in self._of_image("instance", image)
        ]

    def captions(self, image: ImageEntry) -> list[tuple[str, str]]:
        """List an image's captions as written, each with its place.

        Raises: DataError if there is none or the captions file describes another image.
        """
        self._check_described(image)
        texts = [(e.get("caption", str), e.where) for _, e in self._of_image("caption", image)]
        if not texts:
            raise DataError(
                f"{image.where}: image {image.file_name!r} has no caption in the captions file",
                "no caption",
            )
        return texts

    def expressions(self, image: ImageEntry) -> list[tuple[str, str, str]]:
        """List an image's expressions: annotation id, text as written, place.

        Raises: DataError for a field that is missing.
        """
        return [
            (entry.identifier("ann_id"), sentence.get("sent", str), sentence.where)
            for _, entry in self._of_image("expression", image)
            for sentence in entry.entries("sentences")
        ]

    def _items(
        self, path: Path, field: str, *listings: str
    ) -> Iterator[tuple[str, int, str, object]]:
        """Go through lists of a file: list, place in it, place for messages, content."""

        def report(done: int, size: int) -> None:
            if self._progress is not None:
                self._progress(f"{self._split}: MB of {path.name}", done, size)

        places = Counter[str]()
        for listing, where, content in read_lists(path, field, listings, report):
            yield listing, places[listing], where, content
            places[listing] += 1

    def _add_file(self, path: Path) -> int:
        self._files.append(path)
        return len(self._files) - 1

    def _instance(self, entry: Entry, image: ImageEntry) -> Instance:
        box = read_box(entry, image)
        names = find_category(entry, self._categories)
        return Instance(box, *names, read_mask(entry, box, image))

    def _add_image(self, file: int, place: int, where: str, content: object) -> None:
        """Add an entry of an instances file's `images`."""
        image: ImageEntry | None = None
        try:
            image = read_image(Entry(content, where), "id")
        except DataError as error:
            with self._faults.row(self._split, f"{self._files[file].name}: images[{place}]"):
                raise
            # Its id is kept, so that what belongs to it is no fault of its own.
            self._insert_broken_image("instances", file, place, content, error)
        if image is not None:
            size = (image.width, image.height)
            self._insert_image(
                where, ("instances", image.id, image.file_name, *size, file, place, None)
            )

    def _add_described(self, file: int, place: int, where: str, content: object) -> None:
        """Add an entry of a captions file's `images`, of which only the id must be there."""
        try:
            entry = Entry(content, where)
            name = None if entry.raw("file_name") is None else entry.get("file_name", str)
            width, height = (
                None if entry.raw(side) is None else entry.get(side, int)
                for side in ("width", "height")
            )
            if not all(side is None or 0 < side <= MAX_PIXELS for side in (width, height)):
                raise DataError(f"{where}: fields 'width' and 'height' are of no image", "size")
            row = ("captions", entry.identifier("id"), name, width, height, file, place, None)
        except DataError as error:
            if self._faults.on_error == "stop" or _readable_id(content, "id") is None:
                with self._faults.row(self._split, f"{self._files[file].name}: images[{place}]"):
                    raise
            self._insert_broken_image("captions", file, place, content, error)
        else:
            self._insert_image(where, row)

    def _insert_broken_image(
        self, listing: str, file: int, place: int, content: object, error: DataError
    ) -> None:
        identifier, fault = _readable_id(content, "id"), _fault(error)
        where = f"{self._files[file]}: images[{place}]"
        if identifier is not None:
            self._insert_image(where, (listing, identifier, None, None, None, file, place, fault))

    def _insert_image(self, where: str, row: tuple[object, ...]) -> None:
        try:
            self._database.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        except IntegrityError as error:
            field = f"'id' {row[1]}"
            if "file_name" in str(error):
                field = f"'file_name' {row[2]!r}"
            raise DataError(f"{where}: field {field} is there twice") from error

    def _check_described(self, image: ImageEntry) -> None:
        """Compare an image with what the captions file says of it."""
        query = f"{_IMAGE} WHERE listing = 'captions' AND id = ?"
        row = self._database.execute(query, (image.id,)).fetchone()
        if row is None:
            return
        _, name, width, height, file, place, fault = row
        if fault is not None:
            raise DataError(*marshal.loads(fault))  # noqa: S302  # nosec B302
        ours = (image.file_name, image.width, image.height)
        theirs = (name, width, height)
        if any(said not in (None, own) for said, own in zip(theirs, ours, strict=True)):
            raise DataError(
                f"{image.where}: image {image.id} has another file name or size in "
                f"{self._files[file]}: images[{place}]: the two files do not belong together",
                "image described twice",
            )

    def _add_entry(self, kind: str, file: int, place: int, where: str, content: object) -> int:
        """Add an entry that belongs to an image, which it breaks if it is broken.

        Returns: 1, or 0 if it is broken and its image is unknown.
        """
        id_field = "ref_id" if kind == "expression" else "id"
        identifier: str | None = None
        kept: dict[str, object] = {}
        fault: bytes | None = None
        try:
            entry = Entry(content, where)
            identifier, image = entry.identifier(id_field), entry.identifier("image_id")
            if kind == "expression":
                entry.get("split", str)
            kept = {key: entry.raw(key) for key in _KEPT[kind] if entry.has(key)}
        except DataError as error:
            broken = _readable_id(content, "image_id")
            if broken is None or self._faults.on_error == "stop":
                with self._faults.row(self._split, self._name(kind, file, place)):
                    raise
                return 0
            image, fault = broken, _fault(error)
        row = (kind, identifier, image, file, place, marshal.dumps(kept), fault)
        try:
            self._database.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        except IntegrityError as error:
            raise DataError(f"{where}: field {id_field!r} {identifier} is there twice") from error
        return 1

    def _report_strays(self, kind: str, listing: str, file: int) -> None:
        for place, image in self._database.execute(_STRAYS, (listing, kind, file)):
            name = self._name(kind, file, place)
            with self._faults.row(self._split, name):
                raise DataError(
                    f"{self._files[file].parent / name}: field 'image_id' {image} names an image "
                    f"that is not in the {listing} file's images",
                    "unknown image",
                )

    def _name(self, kind: str, file: int, place: int) -> str:
        listing = "" if kind == "expression" else "annotations"
        return f"{self._files[file].name}: {listing}[{place}]"

    def _of_image(self, kind: str, image: ImageEntry) -> Iterator[tuple[str, Entry]]:
        query = (
            "SELECT id, file, place, content, fault FROM entries WHERE kind = ? AND image = ?"
            " ORDER BY file, place"
        )
        found = self._database.execute(query, (kind, image.id))
        for identifier, file, place, content, fault in found:
            if fault is not None:
                raise DataError(*marshal.loads(fault))  # noqa: S302  # nosec B302
            where = f"{self._files[file].parent / self._name(kind, file, place)}"
            yield identifier, Entry(marshal.loads(content), where)  # noqa: S302  # nosec B302

    def _image(self, row: tuple[str, str, int, int, int, int, None]) -> ImageEntry:
        identifier, file_name, width, height, file, place, _ = row
        return ImageEntry(
            identifier, file_name, width, height, f"{self._files[file]}: images[{place}]"
        )


def _fault(error: DataError) -> bytes:
    """Store an error, which `DataError(*marshal.loads(...))` is again."""
    return marshal.dumps((str(error), error.kind))


def _readable_id(content: object, field: str) -> str | None:
    """Return an id of an entry that is broken otherwise, None if it has none."""
    if isinstance(content, Unreadable):
        content = content.content
    return Entry(content, "").readable_id(field) if isinstance(content, dict) else None
