"""Preparing loses work, memory or rows if these fail."""

import resource
import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.data.prepare.shard_writer import write_shards
from system.data.shards.faults import Faults
from system.data.shards.manifest import Manifest
from system.data.shards.schema import SHARD_SCHEMA, Expression, ImageRecord, Instance, Mask
from system.errors import ConfigError, DataError, StorageError
from tests.data.coco_files import png, prepare_coco, read_rows, write_coco


class Generated:
    """A split of images that exist only while they are loaded; breaks at `broken`.

    `damaged` are the bytes of single images.
    """

    def __init__(
        self,
        count: int,
        broken: int | None = None,
        large: bool = False,
        damaged: dict[int, bytes] | None = None,
    ) -> None:
        self._damaged = damaged or {}
        self.fingerprint = f"generated {count} {large}"
        self.loaded = 0
        self._count, self._broken, self._large = count, broken, large
        self._lock = Lock()

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{index}.png"

    def load(self, index: int) -> ImageRecord:
        with self._lock:
            self.loaded += 1
        if index == self._broken:
            raise KeyboardInterrupt
        size = (64, 48) if self._large else (8, 6)
        mask = Mask(size[1], size[0], b"0")
        return ImageRecord(
            image_id=index,
            file_name=self.name(index),
            image=self._damaged.get(index, png(size, index)),
            width=size[0],
            height=size[1],
            captions=(f"number {index}", "again"),
            task="low" if 2 * index <= self._count else "high",
            instances=(Instance((0.5, 0.0, 2.0, 3.0), "pen", "tool", mask),),
            expressions=(Expression(0, "the pen"),),
        )


def write(splits: dict[str, Generated], root: str, **settings: Any) -> Manifest:
    settings.setdefault("faults", Faults("stop"))
    return write_shards(
        splits, root, benchmark="generated", tasks=("low", "high"), source={}, **settings
    )


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


def test_what_is_finished_is_kept_and_an_interrupted_split_goes_on(tmp_path: Path) -> None:
    root = str(tmp_path / "out")
    train, broken = Generated(9), Generated(8, broken=5)
    with pytest.raises(KeyboardInterrupt):
        write({"train": train, "test": broken}, root, row_group_rows=1, shard_rows=1)
    assert not (tmp_path / "out/manifest.json").exists()
    again, whole = Generated(9), Generated(8)
    resumed = write({"train": again, "test": whole}, root, row_group_rows=1, shard_rows=1)
    # Image 5 was never loaded; those before it are in shards of one row, already written.
    assert (train.loaded, again.loaded, whole.loaded) == (9, 0, 3)
    fresh = write(
        {"train": Generated(9), "test": Generated(8)},
        str(tmp_path / "fresh"),
        row_group_rows=1,
        shard_rows=1,
    )
    assert resumed.fingerprint == fresh.fingerprint
    assert [p for p in (tmp_path / "out").rglob("*") if p.suffix == ".partial"] == []


def test_broken_rows_of_an_interrupted_split_are_not_forgotten(tmp_path: Path) -> None:
    """The list would say that fewer rows are missing than are."""
    settings: dict[str, Any] = {"row_group_rows": 2, "shard_rows": 2, "threads": 1}
    damaged = {1: b"", 8: b"", 11: b""}
    found = []
    for root in ("resumed", "whole"):
        if root == "resumed":
            broken, faults = Generated(14, broken=10, damaged=damaged), Faults("quarantine")
            with pytest.raises(KeyboardInterrupt):
                write({"train": broken}, str(tmp_path / root), faults=faults, **settings)
        again, faults = Generated(14, damaged=damaged), Faults("quarantine")
        manifest = write({"train": again}, str(tmp_path / root), faults=faults, **settings)
        found.append((manifest.fingerprint, manifest.quarantined, faults.found))
        assert again.loaded == (14 if root == "whole" else 5)
    assert found[0] == found[1]
    assert [fault.name for fault in found[0][2]] == ["1.png", "8.png", "11.png"]


def test_changed_source_is_written_again_and_the_old_shards_go(tmp_path: Path) -> None:
    root = str(tmp_path / "out")
    old = write({"train": Generated(9)}, root)
    new = write({"train": Generated(11)}, root)
    assert [task.handle("train").rows for task in new.tasks] == [6, 5]
    assert not Path(old.tasks[0].handle("train").shards[0].uri).exists()
    Manifest.load(root).verify(deep=True)


def test_damaged_shard_is_written_again(tmp_path: Path) -> None:
    root = str(tmp_path / "out")
    shard = write({"train": Generated(9)}, root).tasks[0].handle("train").shards[0]
    Path(shard.uri).write_bytes(b"PAR1")
    write({"train": Generated(9)}, root).verify(deep=True)


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


def test_full_disk_is_a_storage_error_that_names_the_shard(tmp_path: Path) -> None:
    with file_size_limit(20_000), pytest.raises(StorageError, match=r"low-00000\.parquet: cannot"):
        write({"train": Generated(40, large=True)}, str(tmp_path), row_group_rows=2)
    assert not (tmp_path / "manifest.json").exists()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the operating system refuse to grow a file beyond `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(("tasks", "groups"), [((), 2), (("a b", "a_b"), 2), (("low", "high"), 0)])
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
