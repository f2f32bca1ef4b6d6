"""Test images leak into training, or a task is empty, if these fail."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.data.prepare.dataset import DATASETS
from system.data.shards.faults import QUARANTINE_NAME
from system.errors import ConfigError, DataError
from tests.data.coco_files import TASKS, edit_json, png, prepare_coco, write_coco


def test_same_picture_in_two_splits_is_refused_before_writing(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "raw", {"train": 2, "test": 2})
    first, last = (sorted((tmp_path / "raw" / split).iterdir()) for split in ("train", "test"))
    prepare_coco(source, str(tmp_path / "shards"))
    last[1].write_bytes(first[0].read_bytes())
    with pytest.raises(DataError, match=rf"{first[0].name}.* of split 'train'") as raised:
        prepare_coco(source, str(tmp_path / "again"))
    assert last[1].name in str(raised.value)
    assert not (tmp_path / "again").exists()


def test_same_picture_leaves_the_training_split_under_quarantine(tmp_path: Path) -> None:
    """A test split that shrank by what leaks would be another test than others report on."""
    source = write_coco(tmp_path / "raw", {"train": 3, "val": 3, "test": 3})
    train, val, test = (sorted((tmp_path / "raw" / split).iterdir()) for split in source.splits)
    for path in (val[0], test[3]):
        path.write_bytes(train[1].read_bytes())
    val[2].write_bytes(train[2].read_bytes())
    out = tmp_path / "out"
    manifest = prepare_coco(replace(source, on_error="quarantine"), out)
    # Image i of a split is of task i mod 2.
    assert manifest.counts == {
        "animal": {"train": 2, "val": 2, "test": 3},
        "food": {"train": 2, "val": 3, "test": 3},
    }
    listed = pq.read_table(out / QUARANTINE_NAME).to_pylist()
    assert {(row["split"], row["name"], row["kind"]) for row in listed} == {
        ("train", train[1].name, "image in two splits"),
        ("train", train[2].name, "image in two splits"),
        ("val", val[0].name, "image in two splits"),
    }
    for path in (val[0], test[3]):
        path.write_bytes(png((20, 16), int(path.stem[-6:])))
    val[2].write_bytes(png((20, 16), 99))
    whole = prepare_coco(replace(source, on_error="quarantine"), out)
    assert whole.counts == {task: dict.fromkeys(source.splits, 3) for task in TASKS}


def test_what_was_put_aside_is_listed_when_the_preparation_ends_with_an_error(
    tmp_path: Path,
) -> None:
    """Without the list nobody sees that it is the broken rows that the task lacks."""
    source = write_coco(tmp_path / "raw", {"train": 2, "test": 2})
    first, second, *_ = sorted((tmp_path / "raw" / "test").iterdir())
    first.write_bytes(b"")
    second.unlink()
    more = replace(source, tasks=(*TASKS, "cars"), on_error="quarantine")
    with pytest.raises(DataError) as raised:
        prepare_coco(more, tmp_path / "early")
    assert "1 row was put aside (1 missing image; see " in str(raised.value)
    assert pq.read_table(tmp_path / "early" / QUARANTINE_NAME).num_rows == 1
    for path in (tmp_path / "raw" / "test").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"3 empty file, 1 missing image; see .*late"):
        prepare_coco(replace(source, on_error="quarantine"), tmp_path / "late")
    assert pq.read_table(tmp_path / "late" / QUARANTINE_NAME).num_rows == 4


def test_all_that_is_missing_is_named_at_once_with_what_would_do(tmp_path: Path) -> None:
    """One by one, each costs the user another look at all annotations."""
    source = write_coco(tmp_path / "raw", {"train": 2, "val": 2, "test": 2})
    for split, category in (("train", 0), ("test", 0), ("test", 1)):
        path = tmp_path / f"raw/annotations/instances_{split}.json"

        def rename(content: Any, category: int = category) -> None:
            content["categories"][category]["supercategory"] = "other"

        edit_json(path, rename)
    splits = {name: replace(files, refs=None) for name, files in source.splits.items()}
    with pytest.raises(DataError) as raised:
        prepare_coco(replace(source, splits=splits), tmp_path / "out")
    assert str(raised.value) == (
        "split 'train' has no image of task 'animal'; split 'test' has no image of any task: take "
        "'test' out of benchmark.options.splits and set "
        "'benchmark.options.tasks=[food]' or complete the annotations"
    )


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
        prepare_coco(replace(source, tasks=(*TASKS, "cars", "sport")), str(tmp_path / "shards"))
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
        ({"background": "whit"}, r"options\.background: 'whit' is no colour"),
        ({"splits": {}}, r"options\.splits: at least one"),
        ({"splits": {"train": {"captions": "x"}}}, r"options\.splits\.train\.instances is missing"),
    ]
    for changed, message in wrong:
        with pytest.raises(ConfigError, match=message):
            prepare("mine", str(tmp_path / "out"), options | changed, None)
