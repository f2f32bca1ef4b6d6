"""What MSCOCO's tools, detection exports and loaders of captions write goes in, or is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.config.compose import composed_values
from system.data.shards.masks import mask_area
from system.data.shards.schema import Mask
from system.diff_prompt.mask_vae.stage import MaskVaePlan
from system.engine.model_stage import model_experiment
from tests.cases.conftest import Ended, Prepared

Case = Callable[[str], Path]
Prepare = Callable[..., Prepared]

EXPORT = (
    "benchmark.options.splits={train:{captions:train/captions.json,"
    "instances:train/_annotations.coco.json,images:train},"
    "test:{captions:valid/captions.json,instances:valid/_annotations.coco.json,images:valid}}",
    "benchmark.options.tasks=[apple,pear]",
)
ANIMALS = ("benchmark.options.tasks=[animal,food]",)
QUARANTINE = "benchmark.options.on_error=quarantine"
WHOLE = {"animal": {"train": 6, "test": 3}, "food": {"train": 6, "test": 3}}
FRUIT = {"apple": {"train": 2, "test": 2}, "pear": {"train": 2, "test": 2}}


def rows(prepared: Prepared, split: str) -> dict[str, dict[str, Any]]:
    """Rows of a split by file name."""
    return {
        row["file_name"]: row
        for task in prepared.manifest().tasks
        for shard in task.handle(split).shards
        for row in pq.read_table(shard.uri).to_pylist()
    }


def areas(row: dict[str, Any]) -> list[int]:
    return [mask_area(Mask(**mask)) for mask in row["masks"]]


def quarantined(prepared: Prepared) -> list[dict[str, str]]:
    """What `quarantine.parquet` lists."""
    found: list[dict[str, str]] = pq.read_table(prepared.folder / "quarantine.parquet").to_pylist()
    return found


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text("utf-8-sig"))
    change(content)
    path.write_text(json.dumps(content))


def test_boxes_are_the_outlines_of_a_detection_export(case: Case, prepare: Prepare) -> None:
    root = case("coco-bbox-only")
    prepared = prepare("coco", root, *EXPORT)
    assert prepared.manifest().counts == FRUIT
    assert areas(rows(prepared, "train")["train_0.jpg"]) == [600]


@pytest.mark.parametrize("on_error", ["stop", "quarantine"])
def test_a_byte_order_mark_is_read(case: Case, prepare: Prepare, on_error: str) -> None:
    options = (*ANIMALS, f"benchmark.options.on_error={on_error}")
    assert prepare("coco", case("coco-bom") / "data", *options).manifest().counts == WHOLE


def test_nan_names_its_annotation_and_costs_only_its_image(case: Case, prepare: Prepare) -> None:
    root = case("coco-nan") / "data"
    refused = prepare("coco", root, *ANIMALS).refused()
    assert "instances_train2017.json: annotations[0]: field 'bbox' is not four numbers" in refused
    prepared = prepare("coco", root, *ANIMALS, QUARANTINE)
    assert prepared.manifest().counts == {
        "animal": {"train": 5, "test": 2},
        "food": {"train": 6, "test": 3},
    }
    assert {row["kind"] for row in quarantined(prepared)} == {"box"}
    assert {row["name"] for row in quarantined(prepared)} == {"000001.png", "000013.png"}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 10**400, 1e999, "12"])
@pytest.mark.parametrize("name", ["bbox", "segmentation"])
def test_no_number_names_its_annotation(
    case: Case, prepare: Prepare, value: object, name: str
) -> None:
    root = case("coco-unsigned-ids") / "data"

    def spoil(content: Any) -> None:
        annotation = content["annotations"][2]
        (annotation[name] if name == "bbox" else annotation[name][0])[2] = value

    edit(root / "annotations/instances_train2017.json", spoil)
    refused = prepare("coco", root, *ANIMALS).refused()
    assert "instances_train2017.json: annotations[2]: " in refused
    prepared = prepare("coco", root, *ANIMALS, QUARANTINE)
    assert prepared.manifest().counts["animal"] == {"train": 5, "test": 3}
    assert [row["name"] for row in quarantined(prepared)] == ["000003.png"]


def test_ids_of_any_size_are_kept(case: Case, prepare: Prepare) -> None:
    prepared = prepare("coco", case("coco-unsigned-ids") / "data", *ANIMALS)
    assert prepared.manifest().counts == WHOLE
    assert rows(prepared, "train")["000001.png"]["image_id"] == "9223372036854775809"


@pytest.mark.parametrize("made", [lambda number: 10**40 + number, "img-{}".format, float])
def test_ids_may_be_text_or_whole_floats(
    case: Case, prepare: Prepare, made: Callable[[int], object]
) -> None:
    root = case("coco-no-supercategory") / "data"

    def rename(content: Any) -> None:
        for image in content["images"]:
            image["id"] = made(image["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = made(annotation["image_id"])
            annotation["id"] = made(annotation["id"])

    for path in (root / "annotations").glob("*.json"):
        edit(path, rename)
    prepared = prepare("coco", root, *ANIMALS, "benchmark.options.task_overrides=tasks.json")
    assert prepared.manifest().counts == WHOLE
    expected = {"1": "1"}.get(str(made(1)), str(made(1))).removesuffix(".0")
    assert rows(prepared, "train")["000001.png"]["image_id"] == expected


def test_super_categories_are_needed_only_by_the_rule(case: Case, prepare: Prepare) -> None:
    root = case("coco-no-supercategory") / "data"
    named = prepare("coco", root, *ANIMALS, "benchmark.options.task_overrides=tasks.json")
    assert named.manifest().counts == WHOLE
    refused = prepare("coco", root, *ANIMALS).refused()
    assert "has no super-category" in refused
    assert "benchmark.options.task_overrides" in refused
    assert "benchmark.options.task_from=category" in refused
    by_category = ("benchmark.options.task_from=category", "benchmark.options.tasks=[cat,apple]")
    counts = prepare("coco", root, *by_category).manifest().counts
    assert counts == {"cat": WHOLE["animal"], "apple": WHOLE["food"]}


def test_captions_need_no_more_than_the_images_ids(case: Case, prepare: Prepare) -> None:
    root = case("coco-captions-id-only")
    prepared = prepare("coco", root, *EXPORT)
    assert prepared.manifest().counts == FRUIT
    row = rows(prepared, "train")["train_0.jpg"]
    assert (row["width"], row["height"], row["captions"]) == (
        64,
        48,
        ["a photo of a apple number 0"],
    )


def test_an_object_without_area_has_an_empty_mask(case: Case, prepare: Prepare) -> None:
    """Two annotations of instances_train2017.json are so; stages on masks leave them out."""
    root = case("coco-zero-area")
    prepared = prepare("coco", root, *EXPORT)
    assert prepared.manifest().counts == FRUIT
    assert areas(rows(prepared, "train")["train_0.jpg"]) == [600, 0]


def test_a_running_number_that_is_too_large_is_named(case: Case, prepare: Prepare) -> None:
    root = case("karpathy-unsigned-ids") / "data"
    refused = prepare("flickr30k", root).refused()
    assert (
        "dataset_flickr30k.json: images[0]: field 'imgid' 9223372036854775808 is too lar" in refused
    )


def export_without_captions(root: Path) -> None:
    """Turn a case into what Roboflow writes: no captions, a root category, no super-categories."""

    def strip(content: Any) -> None:
        for category in content["categories"]:
            category["id"] += 1
            category["supercategory"] = "fruit"
        content["categories"].insert(0, {"id": 0, "name": "fruit", "supercategory": "none"})
        for annotation in content["annotations"]:
            annotation["category_id"] += 1

    for split in ("train", "valid"):
        (root / split / "captions.json").unlink()
        edit(root / split / "_annotations.coco.json", strip)


def test_a_detection_export_needs_no_captions(case: Case, prepare: Prepare) -> None:
    root = case("coco-bbox-only")
    export_without_captions(root)
    refused = prepare("detection", root).refused()  # it has no test split
    assert "~benchmark.options.splits.test" in refused
    prepared = prepare("detection", root, "~benchmark.options.splits.test")
    manifest = prepared.manifest()
    assert manifest.counts == {
        "apple": {"train": 2, "val": 2},
        "pear": {"train": 2, "val": 2},
    }
    row = rows(prepared, "train")["train_0.jpg"]
    assert (row["captions"], row["categories"], row["expressions"]) == ([], ["apple"], [])


def test_masks_can_be_learned_from_an_export_without_captions(
    case: Case, prepare: Prepare, tmp_path: Path
) -> None:
    root = case("coco-bbox-only")
    export_without_captions(root)
    prepare("detection", root, "~benchmark.options.splits.test").manifest()
    words = (
        *("benchmark=detection", "benchmark.name=case", f"data_path={tmp_path / 'data'}"),
        f"benchmark.options.root={root}",
    )
    more = ("experiment=mask_vae", "~benchmark.options.splits.test")
    plan = MaskVaePlan.of(model_experiment(composed_values([*words, *more])))
    assert {task: len(masks) for task, masks in plan.masks("train").items()} == {
        "apple": 2,
        "pear": 2,
    }


def test_retrieval_without_captions_is_refused_before_it_starts(
    case: Case, prepare: Prepare, promptide: Callable[..., Ended], tmp_path: Path
) -> None:
    root = case("coco-bbox-only")
    export_without_captions(root)
    prepare("detection", root, "~benchmark.options.splits.test").manifest()
    words = ("benchmark=detection", "benchmark.name=case", f"data_path={tmp_path / 'data'}")
    more = ("evaluation.split=val", f"storage_path={tmp_path / 'runs'}", "stage.batch_size=2")
    refused = promptide("run", *words, *more).refused()
    assert "no captions in split 'train'" in refused
    assert "benchmark.options.caption_template" in refused


def test_a_template_makes_texts_where_an_option_says_so(case: Case, prepare: Prepare) -> None:
    root = case("coco-bbox-only")
    export_without_captions(root)

    def second(content: Any) -> None:
        content["annotations"].append({**content["annotations"][0], "id": 50})

    edit(root / "train/_annotations.coco.json", second)
    template = "benchmark.options.caption_template='a photo of a {category}'"
    prepared = prepare("detection", root, "~benchmark.options.splits.test", template)
    row = rows(prepared, "train")["train_1.jpg"]
    assert row["captions"] == ["a photo of a pear"]
    assert row["expressions"] == [{"instance": 0, "text": "a photo of a pear"}]
    # two apples: the text would not say which
    row = rows(prepared, "train")["train_0.jpg"]
    assert (row["captions"], row["expressions"]) == (["a photo of a apple"], [])
    refused = prepare("detection", root, "benchmark.options.caption_template=photo").refused()
    assert "{category}" in refused


def test_a_split_that_the_group_does_not_name_can_be_given(
    case: Callable[[str], Path], prepare: Callable[..., Prepared]
) -> None:
    root = case("coco-zero-area")
    files = "{captions:valid/captions.json,instances:valid/_annotations.coco.json,images:valid}"
    train = files.replace("valid", "train")
    options = ("~benchmark.options.splits.test", "benchmark.options.tasks=[apple,pear]")
    whole = f"benchmark.options.splits={{train:{train},val:{files}}}"
    for given in (
        (whole,),
        (f"benchmark.options.splits.train={train}", f"benchmark.options.splits.val={files}"),
    ):
        counts = prepare("coco", root, *given, *options).manifest().counts
        assert [sorted(of) for of in counts.values()] == [["train", "val"]] * 2
    line = prepare("coco", root, whole, *options, "benchmark.options.splits.val.capt=x").refused()
    assert "benchmark.options.splits.val.capt" in line
