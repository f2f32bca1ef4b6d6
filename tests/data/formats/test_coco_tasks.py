"""Images go to the wrong task, or vanish uncounted, if these fail."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from system.data.datasets.coco import CocoSource
from system.errors import DataError
from tests.data.coco_files import (
    edit_json,
    read_rows,
    strict_index,
    write_coco,
)


@pytest.fixture
def source(tmp_path: Path) -> CocoSource:
    return replace(write_coco(tmp_path, {"train": 3}), caption_rule="lpi")


def instances_file(source: CocoSource) -> Path:
    return Path(source.root) / "annotations" / "instances_train.json"


def test_equal_areas_go_to_the_first_task(source: CocoSource) -> None:
    def equal_halves(content: Any) -> None:
        for annotation, x in zip(content["annotations"][:2], (0, 10), strict=True):
            annotation["bbox"] = [x, 0, 10, 16]
            annotation["segmentation"] = [[x, 0, x + 10, 0, x + 10, 16, x, 16]]

    edit_json(instances_file(source), equal_halves)
    for tasks in [("animal", "food"), ("food", "animal")]:
        rows = {row.image_id: row for row in read_rows(replace(source, tasks=tasks), "train")}
        assert rows["1"].task == tasks[0]


def test_crowds_count_for_the_task_as_plain_run_lengths(source: CocoSource) -> None:
    def crowd(content: Any) -> None:
        content["annotations"][1].update(
            iscrowd=1, segmentation={"size": [16, 20], "counts": [10, 300, 10]}
        )

    edit_json(instances_file(source), crowd)
    assert {row.image_id: row.task for row in read_rows(source, "train")}["1"] == "food"


def test_overrides_win_by_file_name_or_id(source: CocoSource) -> None:
    overrides = Path(source.root) / "tasks.json"
    overrides.write_text(json.dumps({"train_000001.png": "food", "2": "animal"}))
    forced = replace(source, task_overrides="tasks.json")
    rows = {row.image_id: row.task for row in read_rows(forced, "train")}
    assert (rows["1"], rows["2"], rows["3"]) == ("food", "animal", "animal")
    overrides.write_text(json.dumps({"1": "cars"}))
    with pytest.raises(DataError, match=r"tasks\.json: field '1' names the task 'cars'"):
        strict_index(forced, "train")


def test_images_without_objects_or_of_other_tasks_are_counted(source: CocoSource) -> None:
    def strip(content: Any) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]

    edit_json(instances_file(source), strip)
    refs = Path(source.root) / "annotations" / "refs_train.json"
    edit_json(refs, lambda content: content.__delitem__(slice(0, 2)))
    index = strict_index(replace(source, tasks=("food",)), "train")
    assert len(index) == 3
    assert index.skipped == {"without_instances": 1, "other_task": 2}
