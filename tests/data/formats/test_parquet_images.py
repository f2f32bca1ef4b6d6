"""A table's images get another image's bytes, or take the machine's memory, if these fail."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.data.formats.parquet_images import ParquetImages, image_columns, read_images
from system.data.prepare.image_files import StoredImage

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, images: list[Any], kind: pa.DataType, group: int = 7) -> None:
    table = pa.table(
        {"image": pa.array(images, kind), "text": [str(row) for row in range(len(images))]}
    )
    pq.write_table(table, path, row_group_size=group)


def content(row: int) -> bytes:
    return random.Random(row).randbytes(100 + row)


def test_columns_of_images_are_those_of_bytes() -> None:
    schema = pa.schema(
        [
            ("image", STRUCT),
            ("jpg", pa.large_binary()),
            ("caption", pa.string()),
            ("size", pa.struct([("width", pa.int32())])),
        ]
    )
    assert image_columns(schema) == ("image", "jpg")


@pytest.mark.parametrize("nested", [True, False])
def test_rows_come_with_their_images_places(tmp_path: Path, nested: bool) -> None:
    path = tmp_path / "a.parquet"
    images: list[Any] = [content(row) for row in range(40)]
    images[3], images[4] = None, b""
    if nested:
        paths = [None if row == 5 else f"{row}.jpg" for row in range(40)]
        images = [{"bytes": b, "path": p} for b, p in zip(images, paths, strict=True)]
        images[7] = None
    write(path, images, STRUCT if nested else pa.binary())
    rows = list(read_images(path, "image", ["text", "image"]))
    assert [values for values, _ in rows] == [{"text": str(row)} for row in range(40)]
    without = [row for row, (_, image) in enumerate(rows) if image is None]
    assert without == ([3, 4, 7] if nested else [3, 4])
    _, sixth = rows[6]
    assert sixth is not None
    assert (sixth.row, sixth.size, sixth.table) == (6, 106, str(path))
    assert sixth.digest == hashlib.sha256(content(6)).hexdigest()
    assert sixth.name == ("6.jpg" if nested else None)
    fifth = rows[5][1]
    assert fifth is not None
    assert fifth.name is None
    reader = ParquetImages("image")
    assert reader.stamp(sixth.stored) == (106, path.stat().st_mtime_ns)
    assert reader.read(sixth.stored) == content(6)


def test_threads_read_any_row_of_several_tables(tmp_path: Path) -> None:
    found = []
    for table in range(6):
        path = tmp_path / f"{table}.parquet"
        write(path, [content(1000 * table + row) for row in range(100)], pa.binary(), 40)
        found += [image for _, image in read_images(path, "image", []) if image is not None]
    random.Random(1).shuffle(found)
    reader = ParquetImages("image")
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda image: reader.read(image.stored), found))
    assert [hashlib.sha256(data).hexdigest() for data in read] == [image.digest for image in found]


def test_table_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, [content(row) for row in range(9)], pa.binary())
    last = [image for _, image in read_images(path, "image", [])][-1]
    assert last is not None
    write(path, [content(1)] * 9, pa.binary())
    with pytest.raises(OSError, match="row 9 has changed"):
        ParquetImages("image").read(last.stored)
    write(path, [content(1)] * 3, pa.binary())
    with pytest.raises(OSError, match="has no row 9"):
        ParquetImages("image").read(last.stored)


def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    """Tables of one row group of many GB are as common as others."""
    path = tmp_path / "a.parquet"
    table = pa.table({"image": [random.Random(row).randbytes(200_000) for row in range(600)]})
    pq.write_table(table, path, write_batch_size=10)  # rows that a page may have
    del table
    before, largest = pa.total_allocated_bytes(), 0
    for _ in read_images(path, "image", []):
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert largest < 30_000_000
    reader = ParquetImages("image")
    for row in range(0, 600, 3):
        data = reader.read(StoredImage(path, row, 200_000))
        assert data == random.Random(row).randbytes(200_000)
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert largest < 60_000_000
