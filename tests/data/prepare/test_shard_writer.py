"""Preparing loses work, memory or rows if these fail."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.data.prepare.shard_writer import write_shards
from system.data.shards.faults import Faults
from system.data.shards.manifest import Manifest
from system.data.shards.schema import SHARD_SCHEMA, Expression, Mask
from system.errors import ConfigError, DataError, StorageError
from tests.data.coco_files import png, prepare_coco, read_rows, write_coco
from tests.data.generated_splits import Generated, write


def test_shards_hold_the_records_in_order(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 5})
    manifest = prepare_coco(source, str(tmp_path / "out"), row_group_rows=2, shard_rows=4)
    tables = [
        pq.read_table(shard.uri) for task in manifest.tasks for shard in task.handle("train").shards
    ]
    assert all(table.schema.equals(SHARD_SCHEMA) for table in tables)
    rows = pa.concat_tables(tables).to_pylist()
    for row, record in zip(rows, read_rows(source, "train"), strict=True):
        assert (row["image_id"], row["file_name"], row["image"]) == (
            record.image_id,
            record.file_name,
            record.image,
        )
        assert (row["width"], row["height"], row["task"]) == (20, 16, record.task)
        assert tuple(row["captions"]) == record.captions
        assert [tuple(box) for box in row["boxes"]] == [i.box for i in record.instances]
        assert row["categories"] == [i.category for i in record.instances]
        assert row["super_categories"] == [i.super_category for i in record.instances]
        assert [Mask(**mask) for mask in row["masks"]] == [i.mask for i in record.instances]
        assert [Expression(**e) for e in row["expressions"]] == list(record.expressions)


def test_same_source_gives_the_same_fingerprint_anywhere(tmp_path: Path) -> None:
    one = write({"train": Generated(9)}, str(tmp_path / "one"), threads=1)
    two = write({"train": Generated(9)}, (tmp_path / "two").as_uri(), threads=3)
    assert one.fingerprint == two.fingerprint
    assert Manifest.load(str(tmp_path / "one")) == one
    two.verify(deep=True)


def test_address_with_a_query_keeps_it_at_the_end(tmp_path: Path) -> None:
    """Object stores take their region and endpoint there."""
    root = (tmp_path / "out").as_uri() + "?use_mmap=true"
    write({"train": Generated(9)}, root)
    manifest = Manifest.load(root)
    manifest.verify(deep=True)
    uri = manifest.tasks[0].handle("train").shards[0].uri
    assert uri.endswith("/low-00000.parquet?use_mmap=true")
    assert write({"train": Generated(9, broken=0)}, root) == manifest


def test_changed_source_is_written_again_and_the_old_shards_go(tmp_path: Path) -> None:
    root = str(tmp_path / "out")
    old = write({"train": Generated(9)}, root)
    new = write({"train": Generated(11)}, root)
    assert [task.handle("train").rows for task in new.tasks] == [6, 5]
    assert not Path(old.tasks[0].handle("train").shards[0].uri).exists()
    Manifest.load(root).verify(deep=True)


def test_broken_image_is_named_and_no_manifest_is_left(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 3, "test": 2})
    image = tmp_path / "raw/test/test_000008.png"
    image.write_bytes(image.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"'test_000008\.png' of split 'test'.*does not decode"):
        prepare_coco(source, str(tmp_path / "out"))
    assert not (tmp_path / "out/manifest.json").exists()
    image.write_bytes(png((21, 16)))
    with pytest.raises(DataError, match=r"'test_000008\.png'.*21 x 16.*annotation says 20 x 16"):
        prepare_coco(source, str(tmp_path / "out"))
    image.write_bytes(png((20, 16)))
    prepare_coco(source, str(tmp_path / "out")).verify()


def test_task_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split 'train' has no image of task 'high'"):
        write({"train": Generated(1)}, str(tmp_path))


def test_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/out/shards/train-\w+: cannot"):
        write({"train": Generated(3)}, str(tmp_path / "file" / "out"))
    with pytest.raises(StorageError, match="no filesystem for this address"):
        write({"train": Generated(3)}, "nowhere://bucket/out")


@pytest.mark.parametrize(("tasks", "groups"), [((), 2), (("a", "a"), 2), (("low", "high"), 0)])
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, tasks: tuple[str, ...], groups: int
) -> None:
    with pytest.raises(ConfigError):
        write_shards(
            {},
            str(tmp_path),
            benchmark="x",
            tasks=tasks,
            source={},
            faults=Faults("stop"),
            row_group_rows=groups,
        )


def test_few_images_are_held_however_many_there_are(tmp_path: Path) -> None:
    peaks = []
    for count in (40, 240):
        tracemalloc.start()
        write(
            {"train": Generated(count, large=True)},
            str(tmp_path / str(count)),
            row_group_rows=4,
            shard_rows=40,
            threads=2,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_fingerprint_follows_annotations_and_images(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 2})
    first = prepare_coco(source, str(tmp_path / "out"))
    lowered = prepare_coco(replace(source, caption_rule="lpi"), str(tmp_path / "out"))
    (tmp_path / "raw/train/train_000001.png").write_bytes(png((20, 16), 77))
    repainted = prepare_coco(replace(source, caption_rule="lpi"), str(tmp_path / "out"))
    assert len({m.fingerprint for m in (first, lowered, repainted)}) == 3
