"""Wrong or stale shards enter a run unseen if these fail."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from system.data.shards.loading import read_images
from system.data.shards.manifest import JOINED, Manifest, SplitHandle, TaskEntry, shard_from_json
from system.errors import ConfigError, DataError
from tests.data.coco_files import edit_json, prepare_coco, train_handles, write_coco


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    source = write_coco(tmp_path / "raw", {"train": 5, "test": 2})
    prepare_coco(source, str(tmp_path / "shards"), row_group_rows=2, shard_rows=4)
    return tmp_path / "shards"


def test_saved_manifest_comes_back_and_may_be_moved(prepared: Path, tmp_path: Path) -> None:
    here = Manifest.load(str(prepared))
    assert here.counts == {task: {"train": 5, "test": 2} for task in ("animal", "food")}
    assert [s.row_groups for s in here.task("food").handle("train").shards] == [(2, 2), (1,)]
    shutil.move(prepared, tmp_path / "elsewhere")
    there = Manifest.load((tmp_path / "elsewhere").as_uri())
    assert there.fingerprint == here.fingerprint
    there.verify(deep=True)
    assert there.tasks[0].handle("test").shards[0].uri.startswith("file://")


def test_unknown_names_list_the_known_ones(prepared: Path) -> None:
    manifest = Manifest.load(str(prepared))
    with pytest.raises(DataError, match="no task 'cars': it has animal, food"):
        manifest.task("cars")
    with pytest.raises(DataError, match="no split 'val': it has train, test"):
        manifest.task("food").handle("val")


def set_version(content: Any) -> None:
    content["version"] = 99


def drop_tasks(content: Any) -> None:
    del content["tasks"]


def leave_root(content: Any) -> None:
    content["tasks"][0]["splits"]["train"][0]["path"] = "../other.parquet"


def change_rows(content: Any) -> None:
    content["tasks"][0]["splits"]["train"][0]["rows"] += 1


def change_checksum(content: Any) -> None:
    content["tasks"][0]["splits"]["train"][0]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_version, "field version is 99, this promptide reads 3"),
        (drop_tasks, "a field is missing or wrong.*tasks"),
        (leave_root, "field path '../other.parquet'.*leaves"),
        (change_rows, "fields rows and row_groups"),
        (change_checksum, "field fingerprint does not fit"),
    ],
)
def test_edited_manifest_is_refused_by_field(prepared: Path, edit: Any, message: str) -> None:
    edit_json(prepared / "manifest.json", edit)
    with pytest.raises(DataError, match=message):
        Manifest.load(str(prepared))


def test_missing_and_damaged_manifests_say_what_to_run(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/manifest\.json does not exist: run `promptide"):
        Manifest.load(str(tmp_path / "nowhere"))
    (prepared / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        Manifest.load(str(prepared))
    (prepared / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="field version"):
        Manifest.load(str(prepared))


def test_changed_shards_are_found(prepared: Path) -> None:
    manifest = Manifest.load(str(prepared))
    first, other = (Path(s.uri) for s in manifest.task("animal").handle("train").shards)
    content = bytearray(first.read_bytes())
    content[100] ^= 0xFF
    first.write_bytes(content)
    manifest.verify()
    with pytest.raises(DataError, match=f"{first.name}: its checksum"):
        manifest.verify(deep=True)
    shutil.copy(other, first)
    with pytest.raises(DataError, match=f"{first.name}: its row groups"):
        manifest.verify()
    first.unlink()
    with pytest.raises(DataError, match=f"{first.name}: cannot be read"):
        manifest.verify()


def image_ids(handle: SplitHandle) -> list[str]:
    return [row.image_id for row in read_images(handle, range(handle.rows))]


def test_joined_tasks_leave_out_what_each_of_them_does(tmp_path: Path) -> None:
    """A method that trains on all tasks at once reads their rows as one split."""
    handles = train_handles(tmp_path)
    less = [
        replace(handle, without=frozenset(rows))
        for handle, rows in zip(handles.values(), ({2}, {0, 20}), strict=False)
    ]
    joined = SplitHandle.joined(less)
    assert joined.rows == 2 * 21 - 3
    assert image_ids(joined) == [image for handle in less for image in image_ids(handle)]


def test_a_joined_task_remembers_its_members(prepared: Path) -> None:
    """Caches and chosen expressions are each member's own; the benchmark stays the same one."""
    manifest = Manifest.load(str(prepared))
    names = [entry.name for entry in manifest.tasks]
    joined = manifest.joined(names[:2])
    assert joined.fingerprint == manifest.fingerprint
    handle = joined.task(JOINED).handle("train")
    assert handle.members == tuple(manifest.task(name).handle("train") for name in names[:2])
    assert handle.rows == sum(part.rows for part in handle.members)
    alone = manifest.task(names[0]).handle("train")
    assert alone.members == (alone,)
    assert len(manifest.joined(None).task(JOINED).parts) == len(names)


def test_rows_left_out_of_a_joined_split_are_left_out_of_their_members(prepared: Path) -> None:
    """A quarantined image would otherwise be read again through the member that has it."""
    manifest = Manifest.load(str(prepared))
    handle = manifest.joined(None).task(JOINED).handle("train")
    first = handle.members[0].stored_rows
    left = handle.leaving_out({0, first + 1})
    assert left.task == JOINED
    assert [sorted(part.without) for part in left.members[:2]] == [[0], [1]]
    assert left.without == {0, first + 1}


def test_a_task_that_has_the_joined_ones_name_is_refused(prepared: Path) -> None:
    manifest = Manifest.load(str(prepared))
    taken = replace(manifest, tasks=(*manifest.tasks, TaskEntry(JOINED, {})))
    with pytest.raises(ConfigError, match="'all'"):
        taken.joined(None)


@pytest.mark.parametrize("groups", [[10**12], [3, 0], [4, -1]])
def test_row_groups_that_no_prepare_writes_are_refused(groups: list[int]) -> None:
    """Readers number the rows of a row group before they look at the file."""
    entry = {"path": "a.parquet", "rows": sum(groups), "row_groups": groups, "sha256": "0"}
    with pytest.raises(DataError, match=r"row_groups of shard a\.parquet: one has less than 1"):
        shard_from_json(entry, "/data")
