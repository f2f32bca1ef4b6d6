"""Results on Karpathy's split cannot be compared with anybody's if these fail."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.config.compose import compose
from system.data.prepare.dataset import DATASETS
from system.data.shards.faults import QUARANTINE_NAME
from system.data.shards.manifest import Manifest
from system.errors import DataError
from tests.data.coco_files import TASKS, edit_json, write_coco, write_karpathy

# Images of train2014 are 1 to 8, those of val2014 9 to 20.
SPLITS = {**dict.fromkeys(range(9, 13), "restval"), **dict.fromkeys(range(13, 17), "val")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MSCOCO 2014 and dataset_coco.json, field by field as they are distributed."""
    root = tmp_path / "coco"
    write_coco(root, {"train2014": 4, "val2014": 6})
    write_karpathy(root, SPLITS)
    return root


def prepare(root: Path, **settings: Any) -> Manifest:
    overrides = ["benchmark=coco_karpathy", f"benchmark.options.root={root}"]
    options = {**compose(overrides).benchmark.options, "tasks": list(TASKS), **settings}
    return DATASETS.get("coco_karpathy")(
        "mine", str(root.parent / "out"), options, None, replace=True
    )


def ids(manifest: Manifest, split: str) -> list[int]:
    shards = [shard for task in manifest.tasks for shard in task.handle(split).shards]
    return [int(n) for shard in shards for n in pq.read_table(shard.uri)["image_id"].to_pylist()]


def test_splits_captions_and_objects_come_from_their_files(root: Path) -> None:
    manifest = prepare(root, caption_rule="lpi")
    assert sorted(ids(manifest, "train")) == list(range(1, 13))
    assert sorted(ids(manifest, "val")) == [13, 14, 15, 16]
    assert sorted(ids(manifest, "test")) == [17, 18, 19, 20]
    shard = manifest.task("animal").handle("train").shards[0]
    rows = {int(row["image_id"]): row for row in pq.read_table(shard.uri).to_pylist()}
    for number, folder in ((1, "train2014"), (9, "val2014")):
        name = f"{folder}_{number:06d}.png"
        assert rows[number]["file_name"] == name
        assert rows[number]["image"] == (root / folder / name).read_bytes()
        assert rows[number]["captions"] == [f"no {number} {k}" for k in range(2)]
        assert rows[number]["categories"] == ["animal thing", "food thing"]


def test_restval_can_be_left_out_and_is_counted(root: Path) -> None:
    manifest = prepare(root, restval="leave_out")
    assert sorted(ids(manifest, "train")) == list(range(1, 9))
    assert manifest.skipped["train"] == {"restval": 4}


def test_images_without_objects_are_counted_and_can_be_given_a_task(root: Path) -> None:
    def strip(content: Any) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 13]

    edit_json(root / "annotations/instances_val2014.json", strip)
    assert prepare(root).skipped["val"] == {"without_instances": 1}
    (root / "tasks.json").write_text(json.dumps({"13": "food"}))
    manifest = prepare(root, task_overrides="tasks.json")
    assert sorted(ids(manifest, "val")) == [13, 14, 15, 16]


def test_files_that_do_not_belong_together_are_named(root: Path) -> None:
    def swap(content: Any) -> None:
        content["images"][0]["cocoid"], content["images"][1]["cocoid"] = 2, 1

    edit_json(root / "dataset_coco.json", swap)
    with pytest.raises(DataError, match=r"dataset_coco\.json: images\[0\]: image 2 is 'train2014_"):
        prepare(root)
    edit_json(
        root / "annotations/instances_val2014.json",
        lambda content: content["categories"][0].update(name="cat"),
    )
    with pytest.raises(DataError, match=r"categories\[0\]: category 1 is another one in"):
        prepare(root)


def test_path_that_leaves_the_root_is_refused(root: Path) -> None:
    (root.parent / "secret.png").write_bytes(b"")

    def leave(content: Any) -> None:
        content["images"][0].update(filepath="..", filename="secret.png")

    def rename(content: Any) -> None:
        content["images"][0]["file_name"] = "secret.png"

    edit_json(root / "dataset_coco.json", leave)
    edit_json(root / "annotations/instances_train2014.json", rename)
    with pytest.raises(DataError, match=r"images\[0\]: field 'file_name' '\.\./secret\.png' leav"):
        prepare(root)
    prepare(root, on_error="quarantine")
    (row,) = pq.read_table(root.parent / "out" / QUARANTINE_NAME).to_pylist()
    assert (row["split"], row["name"], row["kind"]) == ("train", "secret.png", "path")


def test_image_in_both_instances_files_is_refused(root: Path) -> None:
    edit_json(
        root / "annotations/instances_val2014.json",
        lambda content: content["images"][0].update(id=1),
    )
    with pytest.raises(
        DataError, match=r"instances_val2014\.json: images\[0\]: field 'id' 1 is th"
    ):
        prepare(root)
