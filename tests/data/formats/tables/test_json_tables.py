"""A user's JSON is called broken, or one broken item ends all, if these fail."""

import json
from pathlib import Path
from typing import Any

import pytest

from system.data.formats.captions_file import CaptionsFile
from system.data.shards.faults import Faults
from system.errors import DataError

FIELD = "benchmark.options.captions"


def read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    file = CaptionsFile(path, FIELD)
    found = file.rows(file.columns, Faults("stop"))
    return [(where.removeprefix(str(path)), dict(values)) for where, values in found]


def test_json_lines_keep_lists_and_number_lines(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file_name": "a", "caption": ["x", "y"]}\n\n{"file_name": "b", "split": 1}\n')
    assert CaptionsFile(path, FIELD).columns == ("file_name", "caption", "split")
    expected = [
        (", line 1", {"file_name": "a", "caption": ["x", "y"]}),
        (", line 3", {"file_name": "b", "split": 1}),
    ]
    assert read(path) == expected
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(path) == expected
    assert read(path.rename(tmp_path / "captions.json")) == expected


def test_a_json_list_is_read_item_by_item(tmp_path: Path) -> None:
    """The form of LAVIS, ALBEF and BLIP."""
    path = tmp_path / "coco_karpathy_train.json"
    items: list[Any] = [
        {"image": "a.jpg", "caption": "x", "image_id": "coco_1"},
        {"image": "b.jpg", "caption": ["y", "z"], "split": "val"},
    ]
    for indent in (None, 2):
        path.write_text(json.dumps(items, indent=indent))
        assert CaptionsFile(path, FIELD).columns == ("image", "caption", "image_id", "split")
        assert read(path) == [(": [0]", items[0]), (": [1]", items[1])]
    path.write_text("\ufeff" + json.dumps([*items, 7, {"image": "c.jpg"}]))
    with pytest.raises(DataError, match=r"\[2\] is not an object but int"):
        read(path)
    faults = Faults("quarantine")
    rows = list(CaptionsFile(path, FIELD).rows(["image"], faults))
    assert [values["image"] for _, values in rows] == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(faults.found) == 1


def test_an_object_of_images_is_a_row_for_each(tmp_path: Path) -> None:
    """What captioning models' scripts write."""
    path = tmp_path / "captions.json"
    for indent in (None, 2):
        path.write_text(json.dumps({"a b.jpg": "x", "c/d.PNG": ["y", "z"]}, indent=indent))
        assert [values for _, values in read(path)] == [
            {"file_name": "a b.jpg", "caption": "x"},
            {"file_name": "c/d.PNG", "caption": ["y", "z"]},
        ]
    path.write_text('{"a.jpg": "x", "b.jpg": {"z": 1, "z": 2}, "c.jpg": "y"')
    with pytest.raises(DataError, match=r"captions\.json: \['b\.jpg'\]: field 'z' is there twice"):
        read(path)
    with pytest.raises(DataError, match=r"captions\.json: cannot be read"):
        list(CaptionsFile(path, FIELD).rows(["caption"], Faults("quarantine")))


@pytest.mark.parametrize(
    "text", ['{\n  "images": []\n}', '{"images": [],\n "annotations": []}', '{"images": [{}]}']
)
def test_one_object_over_lines_is_no_table_and_not_called_broken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"one JSON object, not a list of rows .*benchmark=coco"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"x": 1}\n{"x": \n', r"a\.jsonl, line 2: is not JSON"),
        (b"{}\n[1]\n", r"a\.jsonl, line 2: is not an object but list"),
        (b'{"x": "\xff"}\n', r"a\.jsonl, line 1: is not UTF-8 text"),
        (b"[" * 100_000 + b"\n", r"a\.jsonl, line 1: is not JSON"),
        (b"\n\n", r"a\.jsonl: has no row"),
    ],
)
def test_lines_that_are_broken_say_where(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.jsonl")


def test_broken_json_line_can_be_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": 1}\nno\n{"x": "\xff"}\n{"x": 2}\n')
    faults = Faults("quarantine")
    rows = [values["x"] for _, values in CaptionsFile(path, FIELD).rows(["x"], faults)]
    broken = [fault.name for fault in faults.found]
    assert (rows, broken) == ([1, 2], [f"{path}, line 2", f"{path}, line 3"])
