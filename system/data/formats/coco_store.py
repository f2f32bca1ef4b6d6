"""MSCOCO's annotation files in a temporary database, looked up by image.

The files are half a gigabyte of JSON in no useful order, and a row needs all entries of its image.
"""

import marshal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection, IntegrityError
from sys import intern

from system.data.formats.coco_entries import (
    ImageEntry,
    find_category,
    read_box,
    read_image,
    read_mask,
)
from system.data.prepare.annotations import Entry, read_items
from system.data.prepare.dataset import Progress
from system.data.prepare.temporary_files import temporary_database, temporary_space
from system.data.shards.faults import Faults
from system.data.shards.schema import Instance
from system.errors import DataError

_TABLES = (
    "CREATE TABLE images (listing TEXT, id INTEGER, file INTEGER, place INTEGER, file_name TEXT,"
    " width INTEGER, height INTEGER, PRIMARY KEY (listing, id), UNIQUE (listing, file_name))",
    "CREATE TABLE entries (kind TEXT, id INTEGER, image INTEGER, file INTEGER, place INTEGER,"
    " content BLOB, PRIMARY KEY (kind, id))",
    "CREATE INDEX entries_by_image ON entries (kind, image)",
)
# Entries of a kind that name an image which is not in the listing that they go by.
_STRAYS = (
    "SELECT entries.place, entries.image FROM entries LEFT JOIN images"
    " ON images.listing = ? AND images.id = entries.image"
    " WHERE entries.kind = ? AND entries.file = ? AND images.id IS NULL ORDER BY entries.place"
)
_IMAGE = "SELECT id, file_name, width, height, file, place FROM images"
_KEPT = {
    "instance": ("category_id", "bbox", "segmentation"),
    "caption": ("caption",),
    "expression": ("ann_id", "sentences"),
}


class CocoStore:
    """The annotation files of one split: its images, and each image's objects and texts.

    Memory does not grow with the files. For use in a `with` block. An entry that cannot be read is
    a broken row, handled by `faults` and named by its place in the file.
    Raises: DataError for a file that is missing, damaged, without a list that it must have, or with
    two entries of one id; StorageError if the database has no room.
    """

    def __init__(
        self, database: Connection, split: str, faults: Faults, progress: Progress | None
    ) -> None:
        self._split, self._faults, self._progress = split, faults, progress
        self._files: list[Path] = []
        self._categories: dict[int, tuple[str, str]] = {}
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
        self._add_images("instances", path, field)
        found: dict[int, tuple[str, str]] = {}
        for where, content in self._items(path, field, "categories"):
            entry = Entry(content, where)
            identifier = entry.get("id", int)
            names = (intern(entry.get("name", str)), intern(entry.get("supercategory", str)))
            if identifier in found:
                raise DataError(f"{where}: field 'id' {identifier} is there twice")
            if self._categories.get(identifier, names) != names:
                raise DataError(
                    f"{where}: category {identifier} is {self._categories[identifier]} in another "
                    "instances file: the files do not belong together"
                )
            found[identifier] = names
        self._categories |= found
        self._add_entries("instance", "instances", path, field, "annotations")

    def add_captions(self, path: Path, field: str) -> None:
        """Read `captions_*.json`; `field` names it in the config."""
        self._add_images("captions", path, field)
        self._add_entries("caption", "captions", path, field, "annotations")

    def add_expressions(self, path: Path, field: str) -> None:
        """Read `refs_*.json` (UNC's structure, as JSON); `field` names it in the config.

        Entries of other splits are passed over, as one published file holds them all.
        Raises: DataError, also for a file without any entry of this split.
        """
        if not self._add_entries("expression", "instances", path, field, ""):
            raise DataError(
                f"{path}: holds no expression of split {self._split!r}: correct {field}"
            )

    def __len__(self) -> int:
        """Return the number of images in the instances files."""
        query = "SELECT count(*) FROM images WHERE listing = 'instances' AND file_name NOT NULL"
        return int(self._database.execute(query).fetchone()[0])

    def images(self) -> Iterator[ImageEntry]:
        """Go through the images of the instances files, in their order."""
        query = f"{_IMAGE} WHERE listing = 'instances' AND file_name NOT NULL ORDER BY rowid"
        for row in self._database.execute(query):
            yield self._image(row)

    def image(self, identifier: int, listing: str = "instances") -> ImageEntry | None:
        """Find an image of the instances files (or the captions file), None if it is not there."""
        query = f"{_IMAGE} WHERE listing = ? AND id = ? AND file_name NOT NULL"
        row = self._database.execute(query, (listing, identifier)).fetchone()
        return None if row is None else self._image(row)

    def only_captioned(self) -> int:
        """Count the images of the captions file that are in no instances file."""
        query = (
            "SELECT count(*) FROM images AS a LEFT JOIN images AS b ON b.listing = 'instances'"
            " AND b.id = a.id WHERE a.listing = 'captions' AND b.id IS NULL"
        )
        return int(self._database.execute(query).fetchone()[0])

    def instances(self, image: ImageEntry) -> list[tuple[int, Instance]]:
        """Build an image's instances, each with its annotation id, in file order.

        Raises: DataError for a box outside the image or a segmentation that does not fit it.
        """
        return [
            (
                identifier,
                Instance(
                    read_box(entry, image),
                    *find_category(entry, self._categories),
                    read_mask(entry, image),
                ),
            )
            for identifier, entry in self._of_image("instance", image)
        ]

    def captions(self, image: ImageEntry) -> list[tuple[str, str]]:
        """List an image's captions as written, each with its place.

        Raises: DataError if there is none or the captions file describes another image.
        """
        other = self.image(image.id, "captions") or image
        if not image.agrees_with(other):
            raise DataError(
                f"{image.where}: image {image.id} has another file name or size in {other.where}: "
                "the two files do not belong together",
                "image described twice",
            )
        texts = [(e.get("caption", str), e.where) for _, e in self._of_image("caption", image)]
        if not texts:
            raise DataError(
                f"{image.where}: image {image.file_name!r} has no caption in the captions file",
                "no caption",
            )
        return texts

    def expressions(self, image: ImageEntry) -> list[tuple[int, str, str]]:
        """List an image's expressions: annotation id, text as written, place.

        Raises: DataError for a field that is missing.
        """
        return [
            (entry.get("ann_id", int), sentence.get("sent", str), sentence.where)
            for _, entry in self._of_image("expression", image)
            for sentence in entry.entries("sentences")
        ]

    def _items(self, path: Path, field: str, listing: str) -> Iterator[tuple[str, object]]:
        def report(done: int, size: int) -> None:
            if self._progress is not None:
                phase = f"{self._split}: MB of {path.name}, {listing or 'entries'}"
                self._progress(phase, done, size)

        return read_items(path, field, listing, report)

    def _add_images(self, listing: str, path: Path, field: str) -> None:
        self._files.append(path)
        file = len(self._files) - 1
        for place, (where, content) in enumerate(self._items(path, field, "images")):
            image: ImageEntry | None = None
            with self._faults.row(self._split, f"{path.name}: images[{place}]"):
                image = read_image(Entry(content, where), "id")
            if image is None:
                self._add_broken_image(listing, content)
                continue
            values = (image.id, file, place, image.file_name, image.width, image.height)
            try:
                self._database.execute(
                    "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", (listing, *values)
                )
            except IntegrityError as error:
                name = "file_name" if "file_name" in str(error) else "id"
                value = image.file_name if name == "file_name" else image.id
                raise DataError(f"{where}: field {name!r} {value!r} is there twice") from error

    def _add_broken_image(self, listing: str, content: object) -> None:
        """Keep the id of a quarantined entry, so that its annotations are no faults."""
        identifier = content.get("id") if isinstance(content, dict) else None
        if isinstance(identifier, int):
            self._database.execute(
                "INSERT OR IGNORE INTO images (listing, id) VALUES (?, ?)", (listing, identifier)
            )

    def _add_entries(self, kind: str, listing: str, path: Path, field: str, name: str) -> int:
        """Add entries that go by the images of a listing; return how many."""
        if path not in self._files:
            self._files.append(path)
        file, id_field = self._files.index(path), "ref_id" if kind == "expression" else "id"
        added = 0
        for place, (where, content) in enumerate(self._items(path, field, name)):
            row: tuple[object, ...] | None = None
            with self._faults.row(self._split, f"{path.name}: {name}[{place}]"):
                entry = Entry(content, where)
                if kind == "expression" and entry.get("split", str) != self._split:
                    continue
                kept = {key: entry.raw(key) for key in _KEPT[kind] if entry.has(key)}
                identifier, image = entry.get(id_field, int), entry.get("image_id", int)
                row = (kind, identifier, image, file, place, marshal.dumps(kept))
            if row is None:
                continue
            try:
                self._database.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", row)
            except IntegrityError as error:
                raise DataError(f"{where}: field {id_field!r} {row[1]} is there twice") from error
            added += 1
        for place, image in self._database.execute(_STRAYS, (listing, kind, file)):
            with self._faults.row(self._split, f"{path.name}: {name}[{place}]"):
                raise DataError(
                    f"{path}: {name}[{place}]: field 'image_id' {image} names an image that is not "
                    f"in the {listing} file's images",
                    "unknown image",
                )
        return added

    def _of_image(self, kind: str, image: ImageEntry) -> Iterator[tuple[int, Entry]]:
        query = (
            "SELECT id, file, place, content FROM entries WHERE kind = ? AND image = ?"
            " ORDER BY file, place"
        )
        name = "" if kind == "expression" else "annotations"
        for identifier, file, place, content in self._database.execute(query, (kind, image.id)):
            where = f"{self._files[file]}: {name}[{place}]"
            yield identifier, Entry(marshal.loads(content), where)

    def _image(self, row: tuple[int, str, int, int, int, int]) -> ImageEntry:
        identifier, file_name, width, height, file, place = row
        return ImageEntry(
            identifier, file_name, width, height, f"{self._files[file]}: images[{place}]"
        )
