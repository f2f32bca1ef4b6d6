"""Expressions go to wrong objects if these fail."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.errors import DataError
from tests.data.refcoco_files import (
    SPLITS,
    Edit,
    prepare,
    put,
    rows,
    write_images,
    write_mdetr,
)

MDETR: list[tuple[Edit, str]] = [
    (lambda _, c: c["annotations"].pop(0), r"expression 0 has 0 annotations, not one"),
    (put("annotations", 1, "image_id", value=0), r"expression 0 has 2 annotations, not one"),
    (put("annotations", 1, "bbox", value=[1, 1, 2, 2]), r"object 10000 has another image, box"),
    (put("images", 1, "width", value=41), r"image 1000 has another file name or size than in"),
    (put("images", 0, "height", value=0), r"fields 'width' and 'height' must be positive"),
    (put("annotations", 0, "category_id", value=9), r"'category_id' 9 is not in the file's cat"),
    (put("annotations", 0, "original_id", value=-1), r"field 'original_id' is -1, neither"),
    (put("images", 1, "id", value=0), r"images\[1\]: field 'id' 0 is there twice"),
    (
        put("images", 0, "dataset_name", value="refcoco+"),
        r"'dataset_name' is 'refcoco\+' but benchmark\.options\.release is 'refcoco'",
    ),
]


@pytest.mark.parametrize(("edit", "message"), MDETR)
def test_a_broken_entry_of_mdetr_is_named(tmp_path: Path, edit: Edit, message: str) -> None:
    """Else expressions would go to wrong objects."""
    instances, refs = write_images(tmp_path, SPLITS)
    path = write_mdetr(tmp_path, instances, refs, masks=False) / "finetune_refcoco_train.json"
    content = json.loads(path.read_text())
    edit([], content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path, format="mdetr")
    assert "finetune_refcoco_train.json" in str(caught.value)


def renumber(content: dict[str, Any], made: Callable[[int], object]) -> None:
    for listing, fields in (
        ("images", ("id", "original_id")),
        ("annotations", ("id", "image_id", "original_id")),
    ):
        for entry in content[listing]:
            entry |= {field: made(entry[field]) for field in fields}


@pytest.mark.parametrize("made", [lambda number: 2**63 + number, "a{}".format, float])
def test_ids_and_files_as_tools_write_them_are_read(
    tmp_path: Path, made: Callable[[int], object]
) -> None:
    """Ids beyond 63 bits, as text or as pandas writes them, behind a byte-order mark."""
    instances, refs = write_images(tmp_path, SPLITS)
    folder = write_mdetr(tmp_path, instances, refs)
    expected = prepare(tmp_path, format="mdetr")
    other = rows(expected, "animal", "train")[0]
    for path in folder.iterdir():
        content = json.loads(path.read_text())
        renumber(content, made)
        path.write_text(json.dumps(content), encoding="utf-8-sig")
    found = prepare(tmp_path, format="mdetr")
    assert found.counts == expected.counts
    first = rows(found, "animal", "train")[0]
    assert first["image_id"] == str(made(int(other["image_id"]))).removesuffix(".0")
    assert first["masks"] == other["masks"]


ROWS: list[tuple[Edit, str, int]] = [
    (put("annotations", 0, "bbox", 2, value=float("nan")), "'bbox' is not four numbers", 1),
    (put("annotations", 0, "bbox", value=[0, 0, 99, 1]), "lies outside the image", 1),
    # the entry itself, and the expression that lacks it
    (put("annotations", 0, value=3), "annotations\\[0\\] is not an object but int", 2),
    (put("images", 0, "id", value=None), "images\\[0\\]: field 'id' is None, neither", 1),
    (put("images", 0, "caption", value=None), "field 'caption' is NoneType, not str", 1),
]


@pytest.mark.parametrize(("edit", "message", "broken"), ROWS)
def test_a_broken_entry_costs_its_expression_alone(
    tmp_path: Path, edit: Edit, message: str, broken: int
) -> None:
    instances, refs = write_images(tmp_path, SPLITS)
    path = write_mdetr(tmp_path, instances, refs) / "finetune_refcoco_train.json"
    expected = prepare(tmp_path, format="mdetr")
    content = json.loads(path.read_text())
    edit([], content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, format="mdetr")
    found = prepare(tmp_path, format="mdetr", on_error="quarantine")
    assert found.counts == expected.counts  # the object has a second expression
    faults = pq.read_table(tmp_path / "data" / "quarantine.parquet").to_pylist()
    assert [fault["split"] for fault in faults] == ["train"] * broken
    with pytest.raises(DataError, match=message):
        raise DataError(faults[0]["reason"])


@pytest.mark.parametrize("empty", [None, [], [[]]])
def test_the_box_is_the_outline_where_no_file_has_one(tmp_path: Path, empty: object) -> None:
    instances, refs = write_images(tmp_path, SPLITS)
    path = write_mdetr(tmp_path, instances, refs, masks=False) / "finetune_refcoco_train.json"
    without = rows(prepare(tmp_path, format="mdetr"), "animal", "train")
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = empty
    path.write_text(json.dumps(content))
    assert rows(prepare(tmp_path, format="mdetr"), "animal", "train") == without
