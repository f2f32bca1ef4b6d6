"""Results on MDETR's files of Flickr30k Entities are not the published protocol's if these fail."""

import json
from pathlib import Path
from typing import Any

import pytest

from system.config.compose import compose
from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.data.shards.split_objects import read_expressions
from system.errors import ConfigError, DataError
from tests.data.flickr_files import write_mdetr_flickr

SPLITS = {"train": 1, "val": 1, "test": 2}
Found = list[tuple[str, list[str], list[list[float]]]]


def prepare(root: Path, dataset: str = "flickr30k_mdetr", /, **options: Any) -> Manifest:
    return DATASETS.get(dataset)(
        "grounding", str(root / "out"), {"root": str(root), **options}, None, replace=True
    )


def merged(**options: Any) -> dict[str, Any]:
    files = {split: f"mdetr_annotations/final_flickr_mergedGT_{split}.json" for split in SPLITS}
    return {"splits": files, **options}


def found(manifest: Manifest, split: str = "test") -> Found:
    """Each phrase's sentence, its words, and its boxes in pixels: left, top, right, bottom."""
    return sorted(
        (
            one.text,
            [one.text[begin:end] for begin, end in one.spans],
            [[round(20 * b[0]), round(16 * b[1]), round(20 * b[2]), round(16 * b[3])]
             for b in one.boxes],
        )
        for one in read_expressions(manifest.task("flickr30k").handle(split))
    )  # fmt: skip


def test_any_box_and_merged_box_are_the_two_protocols(tmp_path: Path) -> None:
    """Whole sentence, the phrase's own words, and all of its boxes or the one around them."""
    write_mdetr_flickr(tmp_path, SPLITS)
    any_box = found(prepare(tmp_path, boxes="any"), "val")
    sentence = "Two men watch a dog under the sky ."
    assert any_box == [
        ("A brown dog runs .", ["A brown dog"], [[4, 4, 20, 10]]),
        ("The men look at it .", ["The men"], [[1, 1, 5, 8], [9, 3, 12, 16]]),
        (sentence, ["Two men"], [[1, 1, 5, 8], [9, 3, 12, 16]]),
        (sentence, ["a dog"], [[4, 4, 20, 10]]),
    ]
    around = found(prepare(tmp_path, boxes="merge"), "val")
    assert [boxes for _, _, boxes in around] == [
        [[4, 4, 20, 10]],
        [[1, 1, 12, 16]],
        [[1, 1, 12, 16]],
        [[4, 4, 20, 10]],
    ]
    each = found(prepare(tmp_path, boxes="each"), "val")
    assert [boxes for _, _, boxes in each if len(boxes) == 1] == [boxes for _, _, boxes in each]
    assert len(each) == 6


@pytest.mark.parametrize("corners", ["raw", "pixels"])
@pytest.mark.parametrize("boxes", ["any", "merge"])
def test_both_published_forms_are_the_same_phrases(
    tmp_path: Path, boxes: str, corners: str
) -> None:
    """Else a figure would depend on which of the two somebody has on disk."""
    write_mdetr_flickr(tmp_path, SPLITS)
    ours = {"boxes": boxes, "corners": corners, "caption_rule": "none"}
    xml = found(prepare(tmp_path, "flickr30k_entities", expressions="sentence", **ours))
    assert found(prepare(tmp_path, **ours)) == xml
    assert found(prepare(tmp_path, expressions="phrase", **ours)) != xml
    if boxes == "merge":
        assert found(prepare(tmp_path, **merged(**ours))) == xml
        assert xml[2][2] == [[1, 1, 12, 16] if corners == "raw" else [0, 0, 12, 16]]


def test_merged_files_are_not_judged_by_any_box(tmp_path: Path) -> None:
    """They have lost what it asks for: the figure would be the other protocol's."""
    with pytest.raises(
        ConfigError, match=r"boxes=any: .*mergedGT_train\.json has a phrase's boxes"
    ):
        prepare(tmp_path, **merged(boxes="any"))


def test_images_may_lie_in_a_folder_for_each_split(tmp_path: Path) -> None:
    """As GLIP's instructions have them."""
    write_mdetr_flickr(tmp_path, SPLITS)
    for split in SPLITS:
        folder = tmp_path / "by_split" / split
        folder.mkdir(parents=True)
        for name in (tmp_path / f"{split}.txt").read_text().split():
            (tmp_path / "flickr30k-images" / f"{name}.jpg").rename(folder / f"{name}.jpg")
    manifest = prepare(tmp_path, images="by_split/{split}")
    assert manifest.counts == {"flickr30k": SPLITS}


def test_a_sentence_without_phrases_is_no_expression(tmp_path: Path) -> None:
    """One of five sentences has none, and an image without any is counted."""
    folder = write_mdetr_flickr(tmp_path, SPLITS)
    manifest = prepare(tmp_path)
    assert manifest.counts == {"flickr30k": SPLITS}
    assert all("evening" not in text for text, _, _ in found(manifest))
    path = folder / "final_flickr_separateGT_test.json"
    content = json.loads(path.read_text())
    first = content["images"][0]["original_img_id"]
    for image in content["images"]:
        if image["original_img_id"] == first:
            image["tokens_positive_eval"] = []
    path.write_text(json.dumps(content))
    manifest = prepare(tmp_path)
    assert manifest.source["skipped"] == {"train": {}, "val": {}, "test": {"without_boxes": 1}}
    assert manifest.counts["flickr30k"]["test"] == 1


@pytest.mark.parametrize(
    ("listing", "field", "value", "message"),
    [
        ("images", "tokens_positive_eval", [[[900, 903]]], r"not a list of \[begin, end\] in the"),
        ("images", "tokens_positive_eval", [[[0, 90]]], r"not a list of \[begin, end\] in the"),
        ("images", "tokens_positive_eval", [[[2, 3]]], "no annotation has a box for the words"),
        ("images", "tokens_positive_eval", None, "'tokens_positive_eval' is NoneType, not list"),
        ("images", "dataset_name", "refcoco", "'dataset_name' is 'refcoco', not 'flickr'"),
        ("images", "width", "wide", "field 'width' is str, not int"),
        ("images", "width", "7", "is 20 x 16 pixels|lies outside the image"),
        ("images", "original_img_id", None, "'original_img_id' is None"),
        ("annotations", "bbox", [0, 0, 400, 2], "lies outside the image"),
        ("annotations", "tokens_positive", "all", "'tokens_positive' is 'all', not a list"),
    ],
)
def test_what_is_not_so_is_named(
    tmp_path: Path, listing: str, field: str, value: Any, message: str
) -> None:
    folder = write_mdetr_flickr(tmp_path, SPLITS)
    path = folder / "final_flickr_separateGT_test.json"
    content = json.loads(path.read_text())
    content[listing][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_shipped_benchmark_and_experiment_read_them(tmp_path: Path) -> None:
    """One command from the files to the zero-shot figure: nothing but the root has to be set."""
    write_mdetr_flickr(tmp_path, SPLITS)
    for more in ([], ["benchmark=mdetr_flickr30k"]):
        for boxes in ("any", "merge"):
            composed = compose(
                ["experiment=rec_flickr30k", *more, f"benchmark.options.boxes={boxes}"]
            ).benchmark
            assert composed.name == f"rec_flickr30k_{boxes}"
            options = {**composed.options, "root": str(tmp_path)}
            manifest = DATASETS.get(composed.dataset)(
                composed.name, str(tmp_path / "out"), options, None, replace=True
            )
            assert manifest.counts == {"flickr30k": SPLITS}
            assert [len(b) for _, _, b in found(manifest)] == (
                [1, 1, 2, 2, 2, 2, 1, 1] if boxes == "any" else [1] * 8
            )
