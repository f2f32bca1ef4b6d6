"""Splits are taken for classes, or images are lost, if these fail."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from system.data.formats.folder_splits import split_named
from system.data.formats.samples.class_directories import class_files, find_classes
from system.errors import DataError


def make(root: Path, names: Sequence[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["dog/1.jpg", "cat/1.jpg"], [("cat", None), ("dog", None)]),
        (["train/dog/1.jpg", "test/dog/2.jpg"], [("dog", "test"), ("dog", "train")]),
        (["Training/dog/1.jpg", "VALID/dog/2.jpg"], [("dog", "train"), ("dog", "val")]),
        (["test/dog/1.jpg"], [("dog", "test")]),
        # A class may be called as a split, if none is there for training.
        (["test/1.jpg", "dog/1.jpg"], [("dog", None), ("test", None)]),
        # Directories beside the splits without images are none of ours.
        (["train/dog/1.jpg", "meta/x/labels.txt"], [("dog", "train")]),
    ],
)
def test_directories_are_splits_or_classes(
    tmp_path: Path, files: list[str], found: list[tuple[str, str | None]]
) -> None:
    make(tmp_path, files)
    classes = find_classes(tmp_path, split_named, named=False, datasets=False)
    assert [(of.name, of.split) for of in classes] == found


def test_each_data_set_has_its_own_layout(tmp_path: Path) -> None:
    make(tmp_path, ["a/train/x/1.jpg", "a/test/x/2.jpg", "b/x/1.jpg"])
    classes = find_classes(tmp_path, split_named, named=False, datasets=True)
    assert [(of.place, of.key, of.split) for of in classes] == [
        ("a/test/x", ("a", "x"), "test"),
        ("a/train/x", ("a", "x"), "train"),
        ("b/x", ("b", "x"), None),
    ]


def test_named_splits_leave_out_other_directories(tmp_path: Path) -> None:
    make(tmp_path, ["training/dog/1.jpg", "old/dog/2.jpg"])
    classes = find_classes(tmp_path, {"training": "train"}.get, named=True, datasets=False)
    assert [(of.place, of.split) for of in classes] == [("training/dog", "train")]
    with pytest.raises(DataError, match="no directories of classes below those of splits"):
        find_classes(tmp_path, {"train": "train"}.get, named=True, datasets=False)


def test_a_name_is_the_same_in_either_form_of_unicode(tmp_path: Path) -> None:
    """macOS decomposes names; a list of classes typed elsewhere would miss them."""
    make(tmp_path, [unicodedata.normalize("NFD", "café") + "/1.jpg"])
    (of,) = find_classes(tmp_path, split_named, named=False, datasets=False)
    assert of.name == unicodedata.normalize("NFC", "café")
    assert list(class_files(tmp_path, of.place)) == [(f"{of.place}/1.jpg", None)]


def test_files_come_sorted_with_the_reason_that_leaves_them_out(tmp_path: Path) -> None:
    make(tmp_path, ["dog/b.JPG", "dog/a.txt", "dog/.a.jpg", "dog/in/c.png"])
    (tmp_path / "dog" / "link").symlink_to(tmp_path / "dog" / "in")
    assert list(class_files(tmp_path, "dog")) == [
        ("dog/.a.jpg", "hidden_file"),
        ("dog/a.txt", "other_file"),
        ("dog/b.JPG", None),
        ("dog/link", "linked_directory"),
        ("dog/in/c.png", None),
    ]
