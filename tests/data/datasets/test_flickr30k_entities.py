"""Grounding results on Flickr30k Entities are wrong if these fail."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from system.config.compose import compose
from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.data.shards.split_objects import read_expressions
from system.errors import ConfigError, DataError
from tests.data.flickr_files import stored_rows, write_entities, write_entities_image

SPLITS = {"train": 2, "val": 1, "test": 1}


def prepare(root: Path, /, **options: Any) -> Manifest:
    return DATASETS.get("flickr30k_entities")(
        "grounding", str(root / "out"), {"root": str(root), **options}, None, replace=True
    )


def first_row(manifest: Manifest, task: str) -> dict[str, Any]:
    return stored_rows(manifest, task, "train")[0]


def expressions(row: dict[str, Any]) -> list[tuple[int, str]]:
    return [(each["instance"], each["text"]) for each in row["expressions"]]


def covered(mask: dict[str, Any]) -> np.ndarray[Any, Any]:
    encoded = {"size": [mask["height"], mask["width"]], "counts": mask["counts"]}
    return np.asarray(coco_mask.decode([encoded]))[:, :, 0]


def test_a_phrase_refers_to_the_box_around_its_chains_boxes(tmp_path: Path) -> None:
    write_entities(tmp_path, SPLITS)
    manifest = prepare(tmp_path)
    assert manifest.counts == {"flickr30k": SPLITS}
    row = first_row(manifest, "flickr30k")
    assert (row["image_id"], row["file_name"], row["width"]) == ("36979", "36979.jpg", 20)
    assert row["boxes"] == [[0, 0, 12, 16], [3, 3, 17, 7]]
    assert row["categories"] == row["super_categories"] == ["people", "animals"]
    assert expressions(row) == [(0, "two men"), (1, "a dog"), (0, "the men"), (1, "a brown dog")]
    assert row["captions"] == [
        "two men watch a dog under the sky",
        "the men look at it",
        "a brown dog runs",
        "it is evening",
        "no 36979",
    ]
    expected = np.zeros((16, 20), np.uint8)
    expected[3:10, 3:20] = 1
    np.testing.assert_array_equal(covered(row["masks"][1]), expected)


def test_or_to_each_of_its_boxes(tmp_path: Path) -> None:
    write_entities(tmp_path, SPLITS)
    row = first_row(prepare(tmp_path, boxes="each"), "flickr30k")
    assert row["boxes"] == [[0, 0, 5, 8], [8, 2, 4, 14], [3, 3, 17, 7]]
    assert row["categories"] == ["people", "people", "animals"]
    assert expressions(row) == [
        (0, "two men"),
        (1, "two men"),
        (2, "a dog"),
        (0, "the men"),
        (1, "the men"),
        (2, "a brown dog"),
    ]


def test_or_to_all_of_its_boxes_at_once(tmp_path: Path) -> None:
    """Any-box: one expression a phrase, which any of its boxes answers."""
    write_entities(tmp_path, SPLITS)
    manifest = prepare(tmp_path, boxes="any")
    row = first_row(manifest, "flickr30k")
    assert row["boxes"] == [[0, 0, 5, 8], [8, 2, 4, 14], [3, 3, 17, 7]]
    assert expressions(row) == [(0, "two men"), (2, "a dog"), (0, "the men"), (2, "a brown dog")]
    assert [each["others"] for each in row["expressions"]] == [[1], [], [1], []]
    found = list(read_expressions(manifest.task("flickr30k").handle("train")))
    assert [len(expression.boxes) for expression in found[:2]] == [2, 1]
    assert found[0].others == ((8 / 20, 2 / 16, 12 / 20, 1.0),)


def test_a_phrase_in_its_sentence_is_named_by_its_words(tmp_path: Path) -> None:
    """As released: the sentence is read, and the phrase's own words score and learn."""
    write_entities(tmp_path, SPLITS)
    manifest = prepare(tmp_path, expressions="sentence")
    found = first_row(manifest, "flickr30k")["expressions"]
    assert [(e["instance"], e["text"]) for e in found] == [
        (0, "two men watch a dog under the sky"),
        (1, "two men watch a dog under the sky"),
        (0, "the men look at it"),
        (1, "a brown dog runs"),
    ]
    words = [[e["text"][begin:end] for begin, end in e["spans"]] for e in found]
    assert words == [["two men"], ["a dog"], ["the men"], ["a brown dog"]]
    counts = {split: {"spans": 4 * images} for split, images in SPLITS.items()}
    assert manifest.source["positive_words"] == counts


def test_the_shipped_benchmark_reads_sentences() -> None:
    shipped = compose(["benchmark=diff_prompt_flickr30k"]).benchmark.options
    assert (shipped["expressions"], shipped["boxes"]) == ("sentence", "merge")


def test_by_type_a_row_has_only_its_tasks_phrases(tmp_path: Path) -> None:
    """Else a task would train on phrases of the tasks to come."""
    write_entities(tmp_path, SPLITS)
    manifest = prepare(tmp_path, task_by="type", tasks=["animals", "people"])
    assert manifest.counts == {"animals": SPLITS, "people": SPLITS}
    animals, people = (first_row(manifest, task) for task in ("animals", "people"))
    assert animals["image_id"] == people["image_id"]
    assert (animals["boxes"], people["boxes"]) == ([[3, 3, 17, 7]], [[0, 0, 12, 16]])
    assert expressions(animals) == [(0, "a dog"), (0, "a brown dog")]
    assert expressions(people) == [(0, "two men"), (0, "the men")]
    with pytest.raises(DataError, match="has no image of task 'clothing', 'bodyparts', 'vehicles'"):
        prepare(tmp_path, task_by="type")


def test_image_without_a_box_is_counted(tmp_path: Path) -> None:
    write_entities(tmp_path, SPLITS)
    write_entities_image(tmp_path, "36979", "Under [/EN#3/scene the sky] .\n", {})
    manifest = prepare(tmp_path)
    assert manifest.source["skipped"] == {"train": {"without_boxes": 1}, "val": {}, "test": {}}


def test_broken_rows_end_it_or_are_quarantined(tmp_path: Path) -> None:
    write_entities(tmp_path, {"train": 5, "val": 1, "test": 1})
    write_entities_image(tmp_path, "36979", "[/EN#1/planets Mars] .\n", {"1": [(1, 1, 2, 2)]})
    write_entities_image(tmp_path, "36980", "[/EN#1/people !] .\n", {"1": [(1, 1, 2, 2)]})
    write_entities_image(tmp_path, "36981", "[/EN#1/people A] .\n", {"1": [(1, 1, 99, 2)]})
    (tmp_path / "flickr30k-images" / "36982.jpg").unlink()
    with pytest.raises(DataError, match=r"36979\.txt, line 1: 'planets' is not the type"):
        prepare(tmp_path)
    manifest = prepare(tmp_path, on_error="quarantine")
    assert manifest.counts == {"flickr30k": {"train": 1, "val": 1, "test": 1}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"36979\n36979\n", r"train\.txt, line 2: image 36979 is there twice"),
        (b"\xe9\n", r"train\.txt: cannot be read as a list of image ids"),
    ],
)
def test_split_list_that_is_not_so_is_refused(tmp_path: Path, lines: bytes, message: str) -> None:
    write_entities(tmp_path, SPLITS)
    (tmp_path / "train.txt").write_bytes(lines)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, on_error="quarantine")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../36979", r"train\.txt, line 2: '\.\./36979' is not the id of an image"),
        ("9" * 30, r"train\.txt, line 2: the image .*/9{30}\.jpg does not exist"),
    ],
)
def test_line_of_a_split_list_that_is_no_image_costs_no_other(
    tmp_path: Path, line: str, message: str
) -> None:
    write_entities(tmp_path, SPLITS)
    (tmp_path / "train.txt").write_text(f"\ufeff36979\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        prepare(tmp_path)
    assert prepare(tmp_path, on_error="quarantine").counts["flickr30k"]["train"] == 1


def test_image_in_two_split_lists_is_refused(tmp_path: Path) -> None:
    """Test images must never be trained on."""
    write_entities(tmp_path, SPLITS)
    (tmp_path / "test.txt").write_text("36979\n")
    with pytest.raises(DataError, match=r"'36979\.jpg' of split 'train' is the same picture"):
        prepare(tmp_path)


def test_wrong_options_name_their_field(tmp_path: Path) -> None:
    write_entities(tmp_path, SPLITS)
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"boxes": "all"}, ConfigError, r"options\.boxes='all' is not one of: merge, each, any"),
        ({"tasks": ["people"]}, ConfigError, "tasks needs task_by=type"),
        ({"tasks": ["men"], "task_by": "type"}, ConfigError, "tasks: men is no phrase type; those"),
        ({"splits": {}}, ConfigError, r"options\.splits: at least one"),
        ({"splits": {"train": "no.txt"}}, DataError, r"options\.splits\.train: the file .* does"),
        ({"sentences": "no"}, DataError, r"options\.sentences: the folder .* does not exist"),
        ({"annotations": "no"}, DataError, r"options\.annotations: the folder .* does not exist"),
        ({"caption_rule": "lip"}, ConfigError, r"options\.caption_rule: 'lip' is unknown"),
    ]
    for changed, kind, message in wrong:
        with pytest.raises(kind, match=message):
            prepare(tmp_path, **changed)
