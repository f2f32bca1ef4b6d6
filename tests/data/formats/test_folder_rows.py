"""A user's rows are misread, or images get another's captions, if these fail."""

from pathlib import Path
from typing import Any

import pytest

from system.data.formats.column_names import FoundColumns
from system.data.formats.folder_rows import CaptionRow, FolderRows, FolderSource, ImageName
from system.data.formats.folder_splits import Division, Draw, Shares
from system.data.formats.image_groups import ImageGroup
from system.data.formats.parquet_images import TableImage
from system.errors import DataError

COLUMNS = FoundColumns("file_name", "caption", "task", "split", "image_id")
BY_COLUMN = Division("column", "column", -1, 0, "", ())


def rows_of(
    columns: FoundColumns = COLUMNS, folder: Path = Path("/"), **options: Any
) -> FolderRows:
    return FolderRows(FolderSource(root="/", **options), columns, folder, embedded=False)


def test_one_image_has_one_name() -> None:
    """Two spellings would be two images, perhaps in two splits."""
    spellings = ("a/b", "./a//b", "a/./b", " a/b ")
    names = {rows_of().image_name({"file_name": name}, "row 1") for name in spellings}
    assert names == {ImageName("a/b", "a/b", None)}


def test_a_path_in_the_image_folder_is_taken_from_there_on(tmp_path: Path) -> None:
    """Exports carry the paths of the machine that they were made on, often this one."""
    rows = rows_of(folder=tmp_path)
    assert rows.image_name({"file_name": f"{tmp_path}/cats/0.png"}, "row 1").name == "cats/0.png"
    with pytest.raises(DataError, match=r"row 1: .*'/etc/hostname' leaves the image folder"):
        rows.image_name({"file_name": "/etc/hostname"}, "row 1")


def test_backslashes_are_slashes_where_such_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/0.png").write_bytes(b"")
    (tmp_path / "a\\b.png").write_bytes(b"")  # Linux allows it
    rows = rows_of(folder=tmp_path)
    assert rows.image_name({"file_name": "cats\\0.png"}, "row 1").name == "cats/0.png"
    assert rows.image_name({"file_name": "a\\b.png"}, "row 1").name == "a\\b.png"
    for name in ("cats\\1.png", "C:\\data\\cats\\0.png", "..\\x.png"):
        with pytest.raises(DataError, match=r"row 1: .*with backslashes, and neither"):
            rows.image_name({"file_name": name}, "row 1")


def test_images_of_a_table_are_told_apart_by_their_bytes() -> None:
    """Data sets that lost their directories have many a 0.jpg; one without a name is its row."""
    rows = FolderRows(FolderSource(root="/"), COLUMNS, Path("/"), embedded=True)

    def named(name: str | None, digest: str, row: int) -> ImageName:
        image = TableImage("/x/train-0.parquet", row, 3, digest, name)
        return rows.image_name({"file_name": image}, "row")

    assert named("0.jpg", "a", 0).key == named("0.jpg", "a", 1).key != named("0.jpg", "b", 2).key
    assert named("/home/me/0.jpg", "a", 0).name == "home/me/0.jpg"
    assert named(None, "a", 0).name == "train-0:1"
    assert named(None, "a", 0).key == named(None, "a", 7).key
    with pytest.raises(DataError, match="row: column 'file_name' holds no image"):
        rows.image_name({"file_name": None}, "row")


def test_a_row_has_cleaned_captions_and_its_images_fields() -> None:
    values = {"caption": ["A  cat.", "two"], "task": 7, "split": "val", "image_id": "12"}
    row = rows_of(caption_rule="lpi").row(values, "row 1")
    assert row == CaptionRow(("a cat", "two"), "7", "val", "12")
    bare = rows_of(FoundColumns("file_name", "caption", None, None, None))
    assert bare.row({"caption": "x"}, "row 1") == CaptionRow(("x",), None, None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "7"),
        (7.0, "7"),
        ("7.0", "7"),
        ("007", "007"),
        ("coco_7", "coco_7"),
        (2**70, str(2**70)),
        (None, None),
        ("", None),
        (float("nan"), None),
    ],
)
def test_ids_are_whole_numbers_or_texts(value: Any, expected: str | None) -> None:
    row = rows_of().row({"caption": "x", "image_id": value}, "row 1")
    assert row.image_id == expected


@pytest.mark.parametrize("value", [-1, "-1", "-1.0", 1.5, True, [1], b"\x89PNG"])
def test_what_is_no_id_is_refused_with_the_way_out(value: Any) -> None:
    with pytest.raises(DataError, match=r"row 1: .*columns\.image_id=null") as refused:
        rows_of().row({"caption": "x", "image_id": value}, "row 1")
    assert "PNG" not in str(refused.value)


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("Training", "train"),
        ("restval", "train"),
        ("VALID", "val"),
        (" dev", "val"),
        ("testing", "test"),
    ],
)
def test_splits_have_several_names(word: str, split: str) -> None:
    assert rows_of().row({"caption": "x", "split": word}, "row 1").split == split


def test_lists_written_as_text_are_several_captions() -> None:
    assert rows_of().row({"caption": '["a", "b"]'}, "row 1").captions == ("a", "b")
    assert rows_of().row({"caption": "[sic] a dog"}, "row 1").captions == ("[sic] a dog",)
    for value in ('["a", 3]', '["a", "b', "[0, 1]", "[]"):
        with pytest.raises(DataError, match=r"row 1: column 'caption' is "):
            rows_of().row({"caption": value}, "row 1")


def test_bytes_of_images_are_not_printed() -> None:
    for value in (b"\x89PNG" * 1000, {"bytes": b"\x89PNG", "path": "a.png"}):
        for column in ("caption", "task", "split", "image_id"):
            with pytest.raises(DataError) as refused:
                rows_of().row({"caption": "x", column: value}, "row 1")
            assert "PNG" not in str(refused.value)
            assert "bytes" in str(refused.value)


def group(*rows: dict[str, Any]) -> ImageGroup:
    whole = {"name": "a/b", "captions": ["x"], "task": "a", "split": "val", "image_id": None}
    return ImageGroup(4, "a/b", tuple((f"row {n}", {**whole, **r}) for n, r in enumerate(rows)))


def test_rows_of_one_image_must_agree() -> None:
    reader = rows_of(FoundColumns("file_name", "caption", "task", "split", None))
    draw = Draw(Shares())
    own = group({}, {"captions": ["y"], "task": None})
    split, record = reader.image(own, BY_COLUMN, draw)
    assert (split, record.task, record.image_id, record.captions) == ("val", "a", "4", ("x", "y"))
    with pytest.raises(DataError, match=r"row 1: column 'task' .* is 'b', but 'a' in row 0"):
        reader.image(group({}, {"task": "b"}), BY_COLUMN, draw)
    with pytest.raises(DataError, match="column 'split' of image 'a/b' is empty"):
        reader.image(group({"split": None}), BY_COLUMN, draw)
