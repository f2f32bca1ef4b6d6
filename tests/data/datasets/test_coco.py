"""Rows differ from the dataset, or bad input goes in unseen, if these fail."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from system.config.compose import compose
from system.data.datasets.coco import CocoSource, read_coco
from system.data.embedded.pictograms import SUPER_CATEGORIES
from system.data.prepare.dataset import DATASETS
from system.data.prepare.split_index import SplitIndex
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError
from tests.data.coco_files import (
    TASKS,
    coco_source,
    drop,
    edit_json,
    put,
    read_rows,
    strict_index,
    write_coco,
    write_published_coco,
)


@pytest.fixture
def source(tmp_path: Path) -> CocoSource:
    return replace(write_coco(tmp_path, {"train": 3}), caption_rule="lpi")


def naive_rows(source: CocoSource, split: str) -> list[dict[str, Any]]:
    """The rows by one plain pass per image, masks by pycocotools and areas by counting pixels."""
    root = Path(source.root)
    captions, instances, refs = (
        json.loads((root / "annotations" / f"{kind}_{split}.json").read_text())
        for kind in ("captions", "instances", "refs")
    )
    categories = {c["id"]: c for c in instances["categories"]}
    rows = []
    for image in instances["images"]:
        own = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        areas: dict[str, int] = {}
        masks = []
        for annotation in own:
            rle = annotation["segmentation"]
            if isinstance(rle, list):
                rle = coco_mask.merge(coco_mask.frPyObjects(rle, image["height"], image["width"]))
            masks.append(np.asarray(coco_mask.decode([rle]))[:, :, 0])
            group = categories[annotation["category_id"]]["supercategory"]
            areas[group] = areas.get(group, 0) + int(masks[-1].sum())
        task = sorted(areas, key=lambda group: -areas[group])[0]
        rows.append(
            {
                "image_id": image["id"],
                "image": (root / split / image["file_name"]).read_bytes(),
                "captions": [
                    a["caption"].lower().replace(".", "").replace("-", " ").replace("!", "")
                    for a in captions["annotations"]
                    if a["image_id"] == image["id"]
                ],
                "task": task,
                "boxes": [tuple(a["bbox"]) for a in own],
                "categories": [categories[a["category_id"]]["name"] for a in own],
                "masks": masks,
                "expressions": [
                    ([a["id"] for a in own].index(r["ann_id"]), s["sent"])
                    for r in refs
                    if r["image_id"] == image["id"]
                    for s in r["sentences"]
                ],
            }
        )
    return sorted(rows, key=lambda row: TASKS.index(row["task"]))


def test_rows_agree_with_a_plain_reading(source: CocoSource) -> None:
    rows = read_rows(source, "train")
    expected = naive_rows(source, "train")
    assert len(rows) == len(expected) == 6
    for row, wanted in zip(rows, expected, strict=True):
        assert row.image_id == str(wanted["image_id"])
        assert row.image == wanted["image"]
        assert list(row.captions) == wanted["captions"]
        assert row.task == wanted["task"]
        assert [i.box for i in row.instances] == wanted["boxes"]
        assert [i.category for i in row.instances] == wanted["categories"]
        assert [(e.instance, e.text) for e in row.expressions] == wanted["expressions"]
        for instance, mask in zip(row.instances, wanted["masks"], strict=True):
            encoded = {"size": [16, 20], "counts": instance.mask.counts}
            np.testing.assert_array_equal(np.asarray(coco_mask.decode([encoded]))[:, :, 0], mask)


def instances_file(source: CocoSource) -> Path:
    return Path(source.root) / "annotations" / "instances_train.json"


def test_missing_places_name_the_config_field(source: CocoSource) -> None:
    root = Path(source.root)
    with pytest.raises(DataError, match=r"options\.root: the folder .* does not exist: set it"):
        strict_index(replace(source, root=str(root / "no")), "train")
    for kind in ("captions", "instances", "refs"):
        path = root / "annotations" / f"{kind}_train.json"
        content = path.read_text()
        path.unlink()
        with pytest.raises(DataError, match=rf"splits\.train\.{kind}: the file .* does not exist"):
            strict_index(source, "train")
        path.write_text(content[:-1])
        with pytest.raises(DataError, match=rf"{kind}_train\.json: cannot be read as JSON"):
            strict_index(source, "train")
        path.write_text(content)
    (root / "train").rename(root / "other")
    with pytest.raises(DataError, match=r"splits\.train\.images: the folder .* does not exist"):
        strict_index(source, "train")


BAD_FILES = [
    ("captions", put("annotations", 0, "image_id", value=99), r"annotations\[0\].*'image_id' 99"),
    (
        "captions",
        put("annotations", 1, "id", value=10),
        r"annotations\[1\].*'id' 10 is there twice",
    ),
    (
        "captions",
        put("annotations", 0, "caption", value=" .! "),
        r"\[0\]: the text ' .! ' is empty",
    ),
    ("captions", put("annotations", 0, "caption", value=7), r"'caption' is int, not str"),
    ("captions", drop("annotations", slice(0, 2)), r"'train_000001\.png' has no caption"),
    ("captions", drop("annotations"), r"has no field 'annotations'"),
    ("captions", put("images", value={}), r"'images' is not a list"),
    ("captions", put("images", 0, value=5), r"images\[0\] is not an object but int"),
    ("captions", put("images", 0, "width", value=30), r"image 1 has another file name or size"),
    ("instances", put("annotations", 2, "image_id", value=99), r"annotations\[2\].*'image_id' 99"),
    ("instances", put("annotations", 1, "id", value=10), r"\[1\]: field 'id' 10 is there twice"),
    ("instances", put("annotations", 0, "category_id", value=9), r"'category_id' 9 is not in"),
    (
        "instances",
        put("categories", 1, "id", value=1),
        r"categories\[1\]: field 'id' 1 is there tw",
    ),
    ("instances", put("images", 1, "id", value=1), r"images\[1\]: field 'id' 1 is there twice"),
    ("instances", put("images", 1, "file_name", value="train_000001.png"), r"is there twice"),
    ("instances", put("images", 0, "height", value=0), r"'width' and 'height' must be positive"),
    ("instances", put("images", 0, "id", value=True), r"'id' is True, neither a whole num"),
    ("instances", put("annotations", 0, "bbox", value=[0, 0, 22, 5]), r"outside the image 'train_"),
    ("instances", put("annotations", 0, "bbox", value=[-2, 0, 5, 5]), r"'bbox' .* lies outside"),
    ("instances", put("annotations", 0, "bbox", value=[0, 0, -5, 5]), r"'bbox' .* lies outside"),
    ("instances", put("annotations", 0, "bbox", value=[0, 0, 5]), r"'bbox' is not four numbers"),
    (
        "instances",
        put("annotations", 0, "bbox", value=[0, 0, 5, float("nan")]),
        r"annotations\[0\]: field 'bbox' is not four numbers",
    ),
    (
        "instances",
        put("annotations", 2, "segmentation", "size", value=[20, 16]),
        r"annotations\[2\]: segmentation\.size is \[20, 16\] but",
    ),
    (
        "instances",
        put("annotations", 0, "segmentation", value=7),
        r"annotations\[0\]: segmentation is nei",
    ),
    (
        "refs",
        put(0, "ann_id", value=20),
        r"refs_train\.json: \[0\]: field 'ann_id' 20 is no instance of image 1",
    ),
    (
        "refs",
        put(0, "image_id", value=99),
        r"refs_train\.json: \[0\]: field 'image_id' 99 names an image",
    ),
    (
        "refs",
        put(1, "ref_id", value=10),
        r"refs_train\.json: \[1\]: field 'ref_id' 10 is there twice",
    ),
    ("refs", put(0, "sentences", 0, "sent", value="!"), r"sentences\[0\]: the text '!' is empty"),
]


@pytest.mark.parametrize(("kind", "edit", "message"), BAD_FILES)
def test_bad_annotation_is_named_by_file_and_field(
    source: CocoSource, kind: str, edit: Callable[[Any], None], message: str
) -> None:
    path = Path(source.root) / "annotations" / f"{kind}_train.json"
    edit_json(path, edit)
    with pytest.raises(DataError, match=message) as caught:
        strict_index(source, "train")
    assert "_train.json" in str(caught.value)


def test_validation_images_are_drawn_one_by_one(tmp_path: Path) -> None:
    """Results of two machines differ, or validation images are trained on, if this fails."""
    source = write_coco(tmp_path, {"train": 40, "test": 1})
    held_out = replace(source, val_share=0.2, val_seed=7)
    found = read_coco(held_out, Faults("stop")).splits
    assert list(found) == ["train", "val", "test"]

    def ids_of(index: SplitIndex) -> set[int]:
        return {int(index.load(place).image_id) for place in range(len(index))}

    ids = {split: ids_of(index) for split, index in found.items()}
    assert ids["train"] | ids["val"] == set(range(1, 81))
    lots = {image: hashlib.sha256(f"7:{image}".encode()).hexdigest()[:16] for image in range(1, 81)}
    assert ids["val"] == {image for image, lot in lots.items() if int(lot, 16) / 2**64 < 0.2}
    assert 8 <= len(ids["val"]) <= 24
    other = read_coco(replace(held_out, val_seed=8), Faults("stop")).splits["val"]
    assert ids_of(other) != ids["val"]


@pytest.mark.parametrize(
    ("settings", "splits"),
    [({"val_share": 1.0}, ["train"]), ({"val_share": 0.1}, ["test"]), ({"val_share": 0.1}, [])],
)
def test_share_that_cannot_be_held_out_is_refused(
    tmp_path: Path, settings: dict[str, Any], splits: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.options\.(val_share|splits)"):
        coco_source(tmp_path, splits, **settings)
    with pytest.raises(ConfigError, match="take val out of benchmark"):
        coco_source(tmp_path, ["train", "val"], val_share=0.1)


@pytest.mark.parametrize("name", ["coco", "lpi_coco"])
def test_published_layout_is_what_the_config_says(tmp_path: Path, name: str) -> None:
    """Users would have to rename half a million files."""
    year = {"coco": 2017, "lpi_coco": 2014}[name]
    overrides = [f"benchmark={name}", f"benchmark.options.root={tmp_path}"]
    if name == "lpi_coco":  # a twentieth of so few images would be none in some tasks
        overrides.append("benchmark.options.val_share=0.4")
    config = compose(overrides).benchmark
    assert config.options["tasks"] == list(SUPER_CATEGORIES)
    write_published_coco(tmp_path, year, {"train": 20, "val": 2}, SUPER_CATEGORIES)
    manifest = DATASETS.get(config.dataset)(name, str(tmp_path / "out"), config.options, None)
    splits = ["train", "test"] if name == "coco" else ["train", "val", "test"]
    assert [list(counts) for counts in manifest.counts.values()] == [splits] * 12
    assert sum(sum(counts.values()) for counts in manifest.counts.values()) == 22 * 12


def test_tasks_that_are_not_named_are_those_of_the_files(source: CocoSource) -> None:
    """Who has a data set of their own would have to list what its files say."""
    unnamed = replace(source, tasks=None)
    assert read_coco(unnamed, Faults("stop")).tasks == ["animal", "food"]
    by_category = replace(unnamed, task_from="category")
    assert read_coco(by_category, Faults("stop")).tasks == ["animal thing", "food thing"]

    def strip(content: Any) -> None:
        content["categories"][0]["supercategory"] = "none"
        del content["categories"][1]["supercategory"]

    edit_json(instances_file(source), strip)
    with pytest.raises(DataError, match=r"tasks: is null, .*task_from=category.*task_overrides"):
        read_coco(unnamed, Faults("stop"))


def test_an_image_of_super_category_none_is_refused_unless_that_is_a_task(
    source: CocoSource,
) -> None:
    """Exports write "none" where there is nothing to write; all such images would be left out."""

    def strip(content: Any) -> None:
        content["categories"][0]["supercategory"] = "none"

    edit_json(instances_file(source), strip)
    with pytest.raises(DataError, match=r"images\[0\]: image '.*' shows .*, which has"):
        strict_index(source, "train")
    named = replace(source, tasks=("none", "food"))
    assert strict_index(named, "train").counts == {"none": 3, "food": 3}


def test_a_broken_annotation_breaks_its_image_and_one_without_image_itself(
    source: CocoSource,
) -> None:
    """An image would go in with some of its objects, as if these were all."""

    def spoil(content: Any) -> None:
        del content["annotations"][0]["id"]
        content["annotations"][2] = None

    edit_json(instances_file(source), spoil)
    faults = Faults("quarantine")
    index = read_coco(source, faults).splits["train"]
    assert len(index) == 4
    assert [fault.name for fault in faults.found] == [
        "instances_train.json: annotations[2]",
        "train_000001.png",
        "train_000002.png",  # an expression of the second object
    ]
