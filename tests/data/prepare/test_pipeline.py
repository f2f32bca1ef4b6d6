"""Test images leak into training, or a task is empty, if these fail."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from system.data.prepare.dataset import DATASETS
from system.errors import ConfigError, DataError
from tests.data.coco_files import edit_json, prepare_coco, write_coco


def test_same_picture_in_two_splits_is_refused_before_writing(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 2, "test": 2})
    first, last = (sorted((tmp_path / "raw" / split).iterdir()) for split in ("train", "test"))
    prepare_coco(source, str(tmp_path / "shards"))
    last[1].write_bytes(first[0].read_bytes())
    with pytest.raises(DataError, match=rf"{first[0].name}.* of split 'train'") as raised:
        prepare_coco(source, str(tmp_path / "again"))
    assert last[1].name in str(raised.value)
    assert not (tmp_path / "again").exists()


def test_ids_and_names_may_start_again_in_each_split(tmp_path: Path) -> None:
    """Exports of annotation tools number each split from 0; that is no leak."""
    source = write_coco(tmp_path / "raw", {"train": 2, "test": 2})
    for split in ("train", "test"):
        for number, path in enumerate(sorted((tmp_path / "raw" / split).iterdir())):
            path.rename(path.with_name(f"{number}.png"))
        for kind in ("captions", "instances"):
            edit_json(tmp_path / f"raw/annotations/{kind}_{split}.json", _from_0)
    splits = {name: replace(files, refs=None) for name, files in source.splits.items()}
    manifest = prepare_coco(replace(source, splits=splits), str(tmp_path / "shards"))
    assert [sum(rows.values()) for rows in manifest.counts.values()] == [4, 4]


def _from_0(content: Any) -> None:
    numbers = {image["id"]: number for number, image in enumerate(content["images"])}
    for image in content["images"]:
        image["id"], image["file_name"] = numbers[image["id"]], f"{numbers[image['id']]}.png"
    for entry in content["annotations"]:
        entry["image_id"] = numbers[entry["image_id"]]


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
