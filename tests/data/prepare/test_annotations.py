"""Images outside of the dataset are read, or a bad file is not named, if these fail."""

from pathlib import Path

import pytest

from system.data.prepare.annotations import (
    Entry,
    load_annotation_json,
    read_items,
    read_lists,
    safe_image_path,
)
from system.errors import DataError

FIELD = "benchmark.options.captions"


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/hostname", "..", ""])
def test_image_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^images\[0\]: .*'file_name'.*leaves the image folder"):
        safe_image_path(tmp_path / "images", name, "images[0]")


def test_link_out_of_the_folder_and_missing_image_are_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "images", tmp_path / "outside.png"
    (folder / "a").mkdir(parents=True)
    (folder / "a/b.png").write_bytes(b"")
    outside.write_bytes(b"")
    assert safe_image_path(folder, "a/b.png", "x") == folder / "a/b.png"
    for name in ("c.png", "c" * 5000):
        with pytest.raises(DataError, match=r"x: the image .* does not exist"):
            safe_image_path(folder, name, "x")
    (folder / "c.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"is a link that leaves the image folder"):
        safe_image_path(folder, "c.png", "x")


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
