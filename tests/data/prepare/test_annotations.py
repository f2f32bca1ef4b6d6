"""A bad file is not named, or ids of a data set are lost, if these fail."""

from pathlib import Path

import pytest

from system.data.prepare.annotations import (
    Entry,
    identifier,
    load_annotation_json,
    read_items,
    read_lists,
)
from system.errors import DataError

FIELD = "benchmark.options.captions"


def test_items_come_one_by_one_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": [{"id": 1}, 2], "empty": [], "one": 1}')
    found = list(read_items(path, FIELD, "images"))
    assert found == [(f"{path}: images[0]", {"id": 1}), (f"{path}: images[1]", 2)]
    assert list(read_items(path, FIELD, "empty")) == []
    for listing, message in (("none", "has no field 'none'"), ("one", "'one' is not a list")):
        with pytest.raises(DataError, match=message):
            list(read_items(path, FIELD, listing))
    path.write_text("[5]")
    assert list(read_items(path, FIELD, "")) == [(f"{path}: [0]", 5)]
    assert load_annotation_json(path, FIELD) == [5]


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for read in (lambda: load_annotation_json(path, FIELD), lambda: [*read_items(path, FIELD, "")]):
        path.unlink(missing_ok=True)
        with pytest.raises(DataError, match=rf"^{FIELD}: the file .*a\.json does not exist"):
            read()
        path.write_text("[1, ")
        with pytest.raises(DataError, match=r"a\.json: cannot be read as JSON \(.*\): fetch the"):
            read()


def test_several_lists_come_in_one_pass_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"b": [1], "other": [{"a": [7]}], "more": {"a": 1}, "a": [2, 3], "last": 0}')
    found = list(read_lists(path, FIELD, ("a", "b")))
    assert [(listing, content) for listing, _, content in found] == [("b", 1), ("a", 2), ("a", 3)]
    assert found[2][1] == f"{path}: a[1]"
    with pytest.raises(DataError, match="has no field 'c'"):
        list(read_lists(path, FIELD, ("a", "c")))
    path.write_text('{"a": [1], "a": [2]}')
    with pytest.raises(DataError, match="field 'a' is there twice"):
        list(read_lists(path, FIELD, ("a",)))
    path.write_text("[1]")
    with pytest.raises(DataError, match="has no field 'a': it is not an object"):
        list(read_lists(path, FIELD, ("a",)))


def test_an_entry_that_cannot_be_taken_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    """One odd entry would cost the whole file."""
    path = tmp_path / "a.json"
    deep = "[" * 5000 + '"]["' + "]" * 5000
    path.write_text(f'[{{"a": 1, "a": 2}}, {{"a": {deep}}}, {{"a": {"9" * 5000}}}, {{"a": 3}}]')
    found = list(read_items(path, FIELD, ""))
    messages = []
    for where, content in found[:3]:
        with pytest.raises(DataError) as caught:
            Entry(content, where)
        messages.append(str(caught.value).removeprefix(f"{path}: "))
    assert messages == [
        "[0]: field 'a' is there twice, with different values",
        "[1]: it is nested too deeply",
        "[2]: it holds a number of too many digits",
    ]
    assert found[3][1] == {"a": 3}
    path.write_text('{"a": 1, "a": 2}')
    with pytest.raises(DataError, match=r"a\.json: field 'a' is there twice"):
        load_annotation_json(path, FIELD)


def test_a_field_of_another_type_is_named() -> None:
    entry = Entry({"id": True, "parts": [{"id": 1}, 2]}, "file: [0]")
    with pytest.raises(DataError, match=r"file: \[0\]: field 'id' is bool, not int"):
        entry.get("id", int)
    with pytest.raises(DataError, match=r"file: \[0\] has no field 'name'"):
        entry.get("name", str)
    with pytest.raises(DataError, match=r"file: \[0\]: parts\[1\] is not an object but int"):
        list(entry.entries("parts"))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1 << 64, str(1 << 64)), (7.0, "7"), ("coco_0", "coco_0")]
)
def test_ids_of_any_size_or_text_are_kept(value: object, text: str) -> None:
    assert identifier(value, "row 1", "id") == text
    assert Entry({"id": value}, "row 1").identifier("id") == text


@pytest.mark.parametrize("value", [-1, True, 1.5, float("nan"), "", "  ", None, [1]])
def test_what_is_no_id_is_named(value: object) -> None:
    with pytest.raises(DataError, match=r"row 1: field 'id' is .*, neither a whole number"):
        identifier(value, "row 1", "id")
    with pytest.raises(DataError, match="row 1 has no field 'id'"):
        Entry({}, "row 1").identifier("id")
