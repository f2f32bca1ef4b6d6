"""Test images leak into training, or a task is empty, if these fail."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from system.data.prepare.dataset import DATASETS
from system.data.prepare.pipeline import check_disjoint
from system.errors import ConfigError, DataError
from tests.data.coco_files import edit_json, prepare_coco, write_coco


@pytest.mark.parametrize(
    ("other", "message"),
    [((1, "b.png", "food"), "its id with one"), ((2, "a.png", "food"), "its file name with one")],
)
def test_image_in_two_splits_is_refused(other: tuple[int, str, str], message: str) -> None:
    check_disjoint({"train": [(1, "a.png", "food")], "test": [(2, "b.png", "food")]})
    with pytest.raises(DataError, match=rf"split 'test' and shares {message} of split 'train'"):
        check_disjoint({"train": [(1, "a.png", "food")], "test": [other]})


def test_one_annotation_file_for_two_splits_is_refused_before_writing(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 2})
    twice = replace(
        source, splits={**source.splits, "test": replace(source.splits["train"], refs=None)}
    )
    with pytest.raises(DataError, match="shares its id"):
        prepare_coco(twice, str(tmp_path / "shards"))
    assert not (tmp_path / "shards").exists()


def test_task_without_images_is_named_before_writing(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 2, "test": 2})
    with pytest.raises(DataError, match=r"split 'train' has no image of task 'cars', 'sport'"):
        prepare_coco(
            replace(source, tasks=(*source.tasks, "cars", "sport")), str(tmp_path / "shards")
        )
    assert not (tmp_path / "shards").exists()


def test_counts_and_skipped_images_are_in_the_manifest(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 3, "test": 2})
    refs = tmp_path / "raw/annotations/refs_train.json"

    def first_image(content: Any) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]

    edit_json(tmp_path / "raw/annotations/instances_train.json", first_image)
    edit_json(refs, lambda content: content.__delitem__(slice(0, 2)))
    seen: list[tuple[str, int, int]] = []
    manifest = prepare_coco(
        source, str(tmp_path / "shards"), progress=lambda *state: seen.append(state)
    )
    assert manifest.counts == {
        "animal": {"train": 2, "test": 2},
        "food": {"train": 3, "test": 2},
    }
    assert manifest.source["skipped"] == {"train": {"without_instances": 1}, "test": {}}
    assert manifest.source["quarantined"] == {}
    read = [
        (f"{split}: annotations", i, n)
        for split, n in (("train", 6), ("test", 4))
        for i in range(1, n + 1)
    ]
    written = [(split, i, n) for split, n in (("train", 5), ("test", 4)) for i in range(1, n + 1)]
    assert seen == read + written


def test_benchmark_config_reaches_the_reader(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 2, "test": 2})
    options = asdict(source)
    prepare = DATASETS.get("coco")
    manifest = prepare("mine", str(tmp_path / "out"), options, None)
    assert (manifest.benchmark, list(manifest.counts)) == ("mine", ["animal", "food"])
    wrong: list[tuple[dict[str, object], str]] = [
        ({"rot": "x"}, r"benchmark\.options\.rot"),
        ({"name": "x"}, r"unknown key benchmark\.options\.name"),
        ({"caption_rule": "lip"}, r"options\.caption_rule: 'lip' is unknown"),
        ({"splits": {}}, r"options\.splits: at least one"),
        ({"splits": {"train": {"captions": "x"}}}, r"options\.splits\.train\.instances is missing"),
    ]
    for changed, message in wrong:
        with pytest.raises(ConfigError, match=message):
            prepare("mine", str(tmp_path / "out"), options | changed, None)
