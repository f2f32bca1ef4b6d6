"""A table's columns are taken for others, or a user is left without the way out, if these fail."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.data.formats.captions_file import CaptionsFile
from system.data.formats.column_names import Columns, FoundColumns
from system.data.formats.tables.layout import TableLayout
from system.errors import DataError


def table(tmp_path: Path, header: str, layout: TableLayout | None = None) -> CaptionsFile:
    (tmp_path / "a.csv").write_text(f"{header}\n")
    return CaptionsFile(tmp_path / "a.csv", "benchmark.options.captions", layout)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("file_name,caption", ("file_name", "caption", None, None, None)),
        ("image,text,split,id", ("image", "text", None, "split", None)),
        ("Filepath,Title,task", ("Filepath", "Title", "task", None, None)),
        ("raw,sentids,split,filename,img_id", ("filename", "raw", None, "split", "img_id")),
        ("image_name,comment_number,comment", ("image_name", "comment", None, None, None)),
        ("image_path,sentence,image_id", ("image_path", "sentence", None, None, "image_id")),
    ],
)
def test_names_that_mean_the_same_are_known(
    tmp_path: Path, header: str, expected: tuple[str | None, ...]
) -> None:
    assert Columns().found_in(table(tmp_path, header)) == FoundColumns(*expected)  # type: ignore[arg-type]


def test_two_columns_of_known_names_are_refused_with_the_way_out(tmp_path: Path) -> None:
    file = table(tmp_path, "file_name,image,caption,title")
    with pytest.raises(DataError, match=r"file_name, image could all .*columns\.file_name"):
        Columns().found_in(file)
    with pytest.raises(DataError, match=r"caption, title could all .*columns\.caption"):
        Columns(file_name="image").found_in(file)
    assert Columns("image", "title").found_in(file).names == ["image", "title"]


def test_the_users_names_come_first_and_null_ignores(tmp_path: Path) -> None:
    file = table(tmp_path, "file_name,caption,split,task,kind,image_id")
    found = Columns(task="kind", split=None, image_id=None).found_in(file)
    assert found == FoundColumns("file_name", "caption", "kind", None, None)
    with pytest.raises(DataError, match=r"has no column 'sort'; it has file_name, .*columns\.task"):
        Columns(task="sort").found_in(file)


def test_columns_without_header_have_numbers(tmp_path: Path) -> None:
    file = table(tmp_path, "a.jpg,a dog", TableLayout(header=False))
    assert Columns().found_in(file).names == ["1", "2"]
    assert Columns(file_name=2, caption=1).found_in(file).names == ["2", "1"]
    file = table(tmp_path, "7,a.jpg,a dog", TableLayout(header=False))
    with pytest.raises(DataError, match=r"it has 1, 2, 3: set benchmark\.options\.columns\.file"):
        Columns().found_in(file)
    assert Columns(file_name=2, caption=3, image_id=1).found_in(file).image_id == "1"


def test_a_wrong_table_is_answered_with_an_example_and_its_separator(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        Columns().found_in(table(tmp_path, "file_name;caption;split"))
    message = str(refused.value)
    assert "file_name;caption;split" in message
    assert "'benchmark.options.separator=\";\"'" in message
    assert "[file_name,caption]" in message
    assert "\n" not in message


def test_images_in_a_table_are_its_images(tmp_path: Path) -> None:
    """Such tables often say a file name too, of a file that nobody has."""
    struct = [{"bytes": b"x", "path": "a.jpg"}]
    columns = {"filename": ["a.jpg"], "image": struct, "text": ["x"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    file = CaptionsFile(tmp_path / "a.parquet", "benchmark.options.captions")
    assert file.images == ("image",)
    assert Columns().found_in(file).file_name == "image"
    assert Columns(file_name="filename").found_in(file).file_name == "filename"
    pq.write_table(pa.table({"jpg": [b"x"], "text": ["x"]}), tmp_path / "a.parquet")
    file = CaptionsFile(tmp_path / "a.parquet", "benchmark.options.captions")
    assert Columns().found_in(file).file_name == "jpg"
