"""Images outside of the dataset are read, or a bad file is not named, if these fail."""

from pathlib import Path

import pytest

from system.data.prepare.annotations import (
    Entry,
    load_annotation_json,
    read_items,
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


def test_a_field_of_another_type_is_named() -> None:
    entry = Entry({"id": True, "parts": [{"id": 1}, 2]}, "file: [0]")
    with pytest.raises(DataError, match=r"file: \[0\]: field 'id' is bool, not int"):
        entry.get("id", int)
    with pytest.raises(DataError, match=r"file: \[0\] has no field 'name'"):
        entry.get("name", str)
    with pytest.raises(DataError, match=r"file: \[0\]: parts\[1\] is not an object but int"):
        list(entry.entries("parts"))
