"""A user's rows are misread, or images move to other splits, if these fail."""

from typing import Any

import pytest

from system.data.formats.folder_rows import CaptionRow, Columns, FolderRows, FolderSource, Shares
from system.data.formats.image_groups import ImageGroup
from system.errors import DataError


def test_drawn_shares_are_those_asked_for() -> None:
    shares = Shares(val=0.1, test=0.3, seed=3)
    drawn = [shares.split_of(f"cats/{i}.png") for i in range(10_000)]
    assert abs(drawn.count("val") - 1000) < 150
    assert abs(drawn.count("test") - 3000) < 200
    # pinned: another hash would move everybody's images to other splits
    assert [Shares().split_of(name) for name in "abcdef"] == [
        *("train", "train", "test", "train", "train", "test")
    ]


def rows_of(**options: Any) -> FolderRows:
    return FolderRows(FolderSource(root="/", **options), Columns())


def test_one_image_has_one_file_name() -> None:
    """Two spellings would be two images, perhaps in two splits."""
    names = {rows_of().file_name({"file_name": n}, "row 1") for n in ("a/b", "./a//b", "a/./b")}
    assert names == {"a/b"}


def test_a_row_has_cleaned_captions_and_its_images_fields() -> None:
    values = {"caption": ["A  cat.", "two"], "task": 7, "split": "val", "image_id": "12"}
    row = rows_of(caption_rule="lpi").row("a/b", values, "row 1")
    assert row == CaptionRow(("a cat", "two"), "7", "val", "12")
    bare = FolderRows(FolderSource(root="/"), Columns(task=None, split=None, image_id=None))
    assert bare.row("pets/b", {"caption": "x"}, "row 1") == CaptionRow(("x",), "pets", None, None)


def group(*rows: dict[str, Any]) -> ImageGroup:
    whole = {"captions": ["x"], "task": "a", "split": "val", "image_id": None}
    return ImageGroup(4, "a/b", tuple((f"row {n}", {**whole, **r}) for n, r in enumerate(rows)))


def test_rows_of_one_image_must_agree() -> None:
    reader = FolderRows(FolderSource(root="/"), Columns(image_id=None))
    split, record = reader.image(group({}, {"captions": ["y"], "task": None}))
    assert (split, record.task, record.image_id, record.captions) == ("val", "a", "4", ("x", "y"))
    with pytest.raises(DataError, match=r"row 1: column 'task' .* is 'b', but 'a' in row 0"):
        reader.image(group({}, {"task": "b"}))
    with pytest.raises(DataError, match="column 'split' of image 'a/b' is empty"):
        reader.image(group({"split": None}))
