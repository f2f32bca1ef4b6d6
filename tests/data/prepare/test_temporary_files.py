"""Temporary files fill the disk, or a full disk is no clear error, if these fail."""

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from system.data.prepare.image_files import StoredImage
from system.data.prepare.temporary_files import (
    LocatedRecord,
    TemporaryRecords,
    temporary_database,
    temporary_space,
)
from system.errors import DataError, StorageError
from tests.data.coco_files import prepare_coco, write_coco
from tests.data.generated_splits import Generated, file_size_limit

ROWS = [
    LocatedRecord(StoredImage(Path(f"/images/{n}.png"), n), Generated(64).load(n), 7)
    for n in range(64)
]


def test_batches_come_back_by_their_numbers() -> None:
    """A wrong batch would give images other images' captions."""
    records = TemporaryRecords()
    assert [records.write(ROWS[:2]), records.write(ROWS[2:5])] == [0, 1]
    records.finish()
    assert records.sizes == [2, 3]
    for batch, numbers in ((1, [2, 3, 4]), (0, [0, 1])):
        expected = [replace(ROWS[n].record, image=b"") for n in numbers]
        assert records.read(batch) == [
            LocatedRecord(ROWS[n].image, record, 7)
            for n, record in zip(numbers, expected, strict=True)
        ]


def test_places_are_read_without_the_rest() -> None:
    """Pictures of two splits are compared by them: another's place is another picture."""
    records = TemporaryRecords()
    records.write(ROWS[:2])
    records.write(ROWS[2:4])
    records.finish()
    assert records.places(1) == [("/images/2.png", 2, None, 7), ("/images/3.png", 3, None, 7)]


def test_full_temporary_disk_is_a_storage_error_with_the_remedy() -> None:
    records = TemporaryRecords()

    def fill() -> None:
        for _ in range(100):
            records.write(ROWS)

    with file_size_limit(20_000), pytest.raises(StorageError, match="set TMPDIR to a folder with"):
        fill()
    with pytest.raises(StorageError, match="set TMPDIR"), temporary_space():
        raise sqlite3.OperationalError("database or disk is full")


def test_a_database_begins_empty_and_ends_with_its_block() -> None:
    with temporary_database() as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        database.execute("CREATE TABLE rows (number INTEGER)")
    with pytest.raises(sqlite3.ProgrammingError):
        database.execute("SELECT * FROM rows")


def test_nothing_temporary_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try would cost the user half a gigabyte of disk."""
    source = replace(write_coco(tmp_path / "raw", {"train": 3, "test": 2}), caption_rule="lpi")
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("SQLITE_TMPDIR", str(place))
    prepare_coco(source, str(tmp_path / "out"))
    (tmp_path / "raw/train/train_000001.png").write_bytes(b"")
    with pytest.raises(DataError):
        prepare_coco(source, str(tmp_path / "out"))
    assert list(place.iterdir()) == []
