"""LPI's own division is not the one that is trained on, if these fail."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.config.compose import compose
from system.data.datasets.lpi_release import CATEGORIES
from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.errors import ConfigError, DataError
from tests.data.coco_files import png
from tests.data.flickr_files import stored_rows


def write_release(root: Path, per_task: int = 2) -> None:
    """Write both files: two rows per training image, one with two captions per test image."""
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    number = 0
    for split, of_split in rows.items():
        (root / f"{split}2014").mkdir(parents=True)
        for category in range(1, 13):
            for _ in range(per_task):
                number += 1
                name = f"{split}2014/COCO_{split}2014_{number:012d}.png"
                (root / name).write_bytes(png((20, 16), number))
                texts = [f"Thing no. {number}, {k}." for k in range(2)]
                fields = {"image": name, "image_id": number, "category": category}
                captions: list[Any] = texts if split == "train" else [texts]
                of_split += [{**fields, "caption": caption} for caption in captions]
    for split, of_split in rows.items():
        of_split.sort(key=lambda row: str(row["caption"])[::-1])  # rows of an image lie apart
        (root / f"retrieval_{split}2014.json").write_text(json.dumps(of_split))


def prepare(root: Path, **changes: Any) -> Manifest:
    options = compose(["benchmark=lpi_release"]).benchmark.options
    changed = {**options, "root": str(root), **changes}
    return DATASETS.get("lpi_release")("small", str(root / "data"), changed, None)


def test_tasks_and_captions_are_those_of_the_files(tmp_path: Path) -> None:
    write_release(tmp_path)
    manifest = prepare(tmp_path)
    assert [task.name for task in manifest.tasks] == [
        *("appliance", "sports", "outdoor", "electronic", "accessory", "indoor"),
        *("kitchen", "furniture", "vehicle", "food", "animal", "person"),
    ]
    assert set(map(str, manifest.counts.values())) == {"{'train': 2, 'test': 2}"}
    for task, category in CATEGORIES.items():
        first = 2 * category - 1
        found = {row["image_id"]: row for row in stored_rows(manifest, task, "train")}
        assert set(found) == {str(first), str(first + 1)}
        assert sorted(found[str(first)]["captions"]) == [
            f"thing no {first} 0",
            f"thing no {first} 1",
        ]
        (test, _) = stored_rows(manifest, task, "test")
        assert test["image"] == (tmp_path / test["file_name"]).read_bytes()
        assert len(test["captions"]) == 2


def test_an_image_of_two_categories_is_a_row_of_each(tmp_path: Path) -> None:
    write_release(tmp_path)

    def both(rows: list[dict[str, Any]]) -> None:
        rows += [{**row, "category": 4} for row in rows if row["image_id"] == 1]

    edit(tmp_path, both)
    counts = prepare(tmp_path).counts
    assert (counts["person"]["train"], counts["animal"]["train"]) == (2, 3)


def test_validation_images_are_drawn_as_those_of_coco(tmp_path: Path) -> None:
    write_release(tmp_path, per_task=8)
    manifest = prepare(tmp_path, val_share=0.4, tasks=["food", "person"])
    counts = manifest.counts["person"]
    assert counts["train"] + counts["val"] == 8
    assert list(manifest.counts) == ["food", "person"]
    with pytest.raises(ConfigError, match="val_share"):
        prepare(tmp_path, val_share=1)
    with pytest.raises(ConfigError, match="tasks: dog is not among appliance"):
        prepare(tmp_path, tasks=["dog"])


def edit(root: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = root / "retrieval_train2014.json"
    rows = json.loads(path.read_text())
    rows.sort(key=lambda row: row["image_id"])
    change(rows)
    path.write_text(json.dumps(rows), encoding="utf-8-sig")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(category=13), r"\[0\]: field 'category' is 13, not a number"),
        (lambda rows: rows[0].update(caption=[]), r"\[0\]: field 'caption' is no text and no list"),
        (lambda rows: rows[0].update(caption="!"), r"\[0\]: the text '!' is empty after cleaning"),
        (lambda rows: rows[0].update(image_id=-3), r"\[0\]: field 'image_id' is -3, neither"),
        (lambda rows: rows[0].update(image_id=7), r"\[1\]: field 'image_id' of 'train2014/.*is 1"),
        (lambda rows: [row.update(image="../x.png") for row in rows[:2]], "leaves the image fold"),
    ],
)
def test_a_broken_row_breaks_its_image_alone(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    write_release(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path)
    counts = prepare(tmp_path, on_error="quarantine").counts
    faults = pq.read_table(tmp_path / "data" / "quarantine.parquet").to_pylist()
    assert {row["split"] for row in faults} == {"train"}
    assert sum(count["train"] for count in counts.values()) in (23, 24)
