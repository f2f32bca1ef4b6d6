"""A user's own expressions refer to other boxes than they were written for, if these fail."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask

from system.config.compose import compose
from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.errors import DataError
from tests.data.coco_files import png
from tests.data.flickr_files import stored_rows

SIZE = (20, 16)


def images(root: Path, count: int = 12) -> list[str]:
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03d}.png" for number in range(count)]
    for number, name in enumerate(names):
        (root / name).write_bytes(png(SIZE, number))
    return names


def json_lines(root: Path, rows: Sequence[dict[str, Any]]) -> str:
    path = root / "expressions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8-sig")
    return path.name


def prepare(root: Path, **changes: Any) -> Manifest:
    options = compose(["benchmark=referring"]).benchmark.options
    changed = {**options, "root": str(root), **changes}
    return DATASETS.get("referring")("small", str(root / "data"), changed, None)


def found(manifest: Manifest, task: str = "all") -> dict[str, dict[str, Any]]:
    """Rows of all splits by file name."""
    entry = manifest.task(task)
    return {
        row["file_name"]: row
        for split in entry.splits
        for row in stored_rows(manifest, task, split)
    }


def area(mask: dict[str, Any]) -> int:
    return int(coco_mask.area({"size": [mask["height"], mask["width"]], "counts": mask["counts"]}))


def test_a_csv_of_four_columns_needs_no_option(tmp_path: Path) -> None:
    names = images(tmp_path)
    lines = [f'{name},"the cat, asleep",1,2,3,4\n{name},a dog,5,6,7,8\n' for name in names]
    lines.append(f"{names[0]},a cat,1,2,3,4\n")
    (tmp_path / "expressions.csv").write_text("image,expression,x,y,w,h\n" + "".join(lines))
    manifest = prepare(tmp_path)
    assert set(manifest.counts["all"]) == {"train", "val", "test"}
    row = found(manifest)[names[0]]
    assert row["boxes"] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert row["expressions"] == [
        {"instance": 0, "text": "the cat, asleep"},
        {"instance": 1, "text": "a dog"},
        {"instance": 0, "text": "a cat"},
    ]
    assert (row["width"], row["height"]) == SIZE
    assert [area(mask) for mask in row["masks"]] == [12, 56]
    assert row["captions"] == ["the cat, asleep", "a dog", "a cat"]


@pytest.mark.parametrize(
    ("box", "box_format"),
    [
        ({"box": [1, 2, 3, 4]}, "xywh"),
        ({"bbox": [1, 2, 4, 6.0]}, "xyxy"),
        ({"box": "[1, 2, 4, 6]"}, "xyxy"),
        ({"box": "1 2 3 4"}, "xywh"),
        ({"xmin": 1, "ymin": 2, "xmax": 4, "ymax": 6}, None),
        ({"x1": 1, "y1": 2, "x2": 4, "y2": 6}, None),
        ({"x": 1, "y": 2, "width": 3, "height": 4}, None),
    ],
)
def test_a_box_is_read_as_it_is_written(
    tmp_path: Path, box: dict[str, Any], box_format: str | None
) -> None:
    rows = [{"file_name": name, "phrase": "it", **box} for name in images(tmp_path)]
    file = json_lines(tmp_path, rows)
    manifest = prepare(tmp_path, expressions=file, box_format=box_format)
    assert found(manifest)["003.png"]["boxes"] == [[1, 2, 3, 4]]


def test_an_order_of_numbers_that_may_be_two_is_asked_for(tmp_path: Path) -> None:
    """Boxes would be wrong, and look right."""
    rows = [{"image": name, "expression": "it", "box": [1, 2, 3, 4]} for name in images(tmp_path)]
    with pytest.raises(DataError, match=r"set benchmark\.options\.box_format to xywh or xyxy"):
        prepare(tmp_path, expressions=json_lines(tmp_path, rows))


def test_outlines_are_polygons_run_lengths_or_the_box(tmp_path: Path) -> None:
    pixels = np.zeros((16, 20), np.uint8, order="F")
    pixels[2:6, 1:4] = 1
    encoded = coco_mask.encode(pixels)
    runs = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    triangle = [1, 2, 4, 2, 4, 6]
    masks: list[Any] = [runs, triangle, [triangle], json.dumps([triangle]), None, [], ""]
    rows = [
        {"image": name, "expression": "it", "box": [1, 2, 3, 4], "mask": mask}
        for name, mask in zip(images(tmp_path, 7), masks, strict=True)
    ]
    manifest = prepare(tmp_path, expressions=json_lines(tmp_path, rows), box_format="xywh")
    areas = [area(row["masks"][0]) for _, row in sorted(found(manifest).items())]
    assert areas[0] == 12
    assert areas[1] == areas[2] == areas[3] < 12
    assert areas[4:] == [12, 12, 12]


def test_tasks_are_those_of_the_objects(tmp_path: Path) -> None:
    rows = [
        {"image": name, "img_id": f"id-{name}", "text": f"the {task}", "box": box, "task": task}
        for name in images(tmp_path)
        for task, box in (("cats", [1, 2, 3, 4]), ("dogs", [5, 6, 7, 8]))
    ]
    for number, row in enumerate(rows):
        row["split"] = ("train", "validation", "test")[number // 2 % 3]
    manifest = prepare(tmp_path, expressions=json_lines(tmp_path, rows), box_format="xywh")
    assert manifest.counts == {task: {"train": 4, "val": 4, "test": 4} for task in ("cats", "dogs")}
    row = found(manifest, "dogs")["001.png"]
    assert (row["image_id"], row["boxes"]) == ("id-001.png", [[5, 6, 7, 8]])
    assert row["expressions"] == [{"instance": 0, "text": "the dogs"}]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"box": [1, 2, 3]}, r"line 1: column 'box' is .*, not four numbers"),
        ({"box": [1, 2, float("nan"), 4]}, r"line 1: column 'box' is .*, not four numbers"),
        ({"box": [1, 2, 10**400, 4]}, r"line 1: column 'box' is .*, not four numbers"),
        ({"box": None}, r"line 1: column 'box' is .*, not four numbers"),
        ({"box": [1, 2, 0, 4]}, r"line 1: column 'box' is a box without area as xywh"),
        (
            {"box": [1, 2, 30, 4]},
            r"line 1: the box .* \[1\.0, 2\.0, 30\.0, 4\.0\] lies outside",
        ),
        ({"mask": "[[1"}, r"line 1: the mask is not JSON"),
        ({"mask": {"size": [1, 1], "counts": [1]}}, r"line 1: segmentation\.size is \[1, 1\] but"),
        ({"expression": " "}, r"line 1: column 'expression': the text ' ' is empty"),
        ({"task": "\ud800"}, r"line 1: column 'task' is .*, no Unicode"),
        ({"image": "../x.png"}, r"leaves the image folder"),
        ({"image": "broken.png"}, r"broken\.png"),
    ],
)
def test_a_broken_row_breaks_its_image_alone(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    rows: list[dict[str, Any]] = [
        {"image": name, "expression": "it", "box": [1, 2, 3, 4], "mask": None, "task": "all"}
        for name in images(tmp_path)
    ]
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows[0].update(changed)
    file = json_lines(tmp_path, rows)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, expressions=file, box_format="xywh")
    manifest = prepare(tmp_path, expressions=file, box_format="xywh", on_error="quarantine")
    assert sum(manifest.counts["all"].values()) == 11
    assert pq.read_table(tmp_path / "data" / "quarantine.parquet").num_rows == 1


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"image": "000.png", "expression": "it"}], {}, "no column 'box or bbox"),
        (
            [{"image": "000.png", "box": [1, 2, 3, 4]}],
            {"box_format": "xywh"},
            "no column 'expression'",
        ),
        (
            [{"image": "000.png", "sent": "it", "text": "it", "box": [1, 2, 3, 4]}],
            {"box_format": "xywh"},
            "could all be the expression",
        ),
        (
            [{"image": "000.png", "expression": "it", "box": 1}],
            {"columns": {"box": ["a", "b"]}},
            r"no column 'a'; .*: set benchmark\.options\.columns\.box",
        ),
    ],
)
def test_a_missing_column_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    images(tmp_path, 1)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, expressions=json_lines(tmp_path, rows), **changes)
