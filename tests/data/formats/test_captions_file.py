"""A user's captions are misread, or an error does not say where, if these fail."""

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.data.formats.captions_file import CaptionsFile
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError

FIELD = "benchmark.options.captions"


def read(path: Path, *columns: str) -> list[tuple[str, dict[str, Any]]]:
    file = CaptionsFile(path, FIELD)
    return [
        (where.removeprefix(str(path)), dict(values))
        for where, values in file.rows(columns or file.columns, Faults("stop"))
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_is_text_with_quotes_and_line_breaks(tmp_path: Path, end: str) -> None:
    """A task called 007 or a caption `null` must stay what it is."""
    path = tmp_path / "captions.csv"
    lines = ["file_name,caption,task", 'a.jpg,"one, ""two""\nthree",007', "b.jpg,null,", ""]
    path.write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    assert CaptionsFile(path, FIELD).columns == ("file_name", "caption", "task")
    assert read(path) == [
        (", row 1", {"file_name": "a.jpg", "caption": 'one, "two"\nthree', "task": "007"}),
        (", row 2", {"file_name": "b.jpg", "caption": "null", "task": ""}),
    ]
    assert read(path, "task") == [(", row 1", {"task": "007"}), (", row 2", {"task": ""})]


def test_tsv_is_split_at_tabs(tmp_path: Path) -> None:
    path = tmp_path / "captions.tsv"
    path.write_text("file_name\tcaption\na.jpg\tone, two\n")
    assert read(path) == [(", row 1", {"file_name": "a.jpg", "caption": "one, two"})]


def test_json_lines_keep_lists_and_number_lines(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file_name": "a", "caption": ["x", "y"]}\n\n{"file_name": "b", "split": 1}\n')
    assert CaptionsFile(path, FIELD).columns == ("file_name", "caption", "split")
    assert read(path) == [
        (", line 1", {"file_name": "a", "caption": ["x", "y"]}),
        (", line 3", {"file_name": "b", "split": 1}),
    ]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    table = pa.table({"file_name": ["a", "b"], "caption": [["x", "y"], []], "image_id": [5, None]})
    pq.write_table(table, path)
    assert read(path, "caption", "image_id") == [
        (", row 1", {"caption": ["x", "y"], "image_id": 5}),
        (", row 2", {"caption": [], "image_id": None}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv: cannot be read \(Empty CSV file\)"),
        ("a.csv", b"x,y\n1,2\n3\n", r"a\.csv: cannot be read .*Row #3: Expected 2 columns, got 1"),
        ("a.csv", b"x,x\n1,2\n", r"a\.csv: the column 'x' is there twice"),
        ("a.csv", b"x\n\xff\n", r"a\.csv: cannot be read .*invalid UTF8"),
        ("a.jsonl", b'{"x": 1}\n{"x": \n', r"a\.jsonl, line 2: is not JSON"),
        ("a.jsonl", b"{}\n[1]\n", r"a\.jsonl, line 2: is not an object but list"),
        ("a.jsonl", b"\xff\xfe\xff\n", r"a\.jsonl, line 1: is not JSON"),
        ("a.jsonl", b"[" * 100_000 + b"\n", r"a\.jsonl, line 1: is not JSON"),
        ("a.parquet", b"PAR1", r"a\.parquet: cannot be read"),
    ],
)
def test_file_that_is_broken_says_where(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_broken_json_line_can_be_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\nno\n{"x": 2}\n')
    faults = Faults("quarantine")
    rows = [values["x"] for _, values in CaptionsFile(path, FIELD).rows(["x"], faults)]
    assert (rows, [fault.name for fault in faults.found]) == ([1, 2], [f"{path}, line 2"])


def test_missing_file_and_unknown_format_name_the_field(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"options\.captions: the file .*a\.csv does not exist"):
        CaptionsFile(tmp_path / "a.csv", FIELD)
    with pytest.raises(ConfigError, match=r"options\.captions: 'a\.xlsx' has no suffix of \.csv"):
        CaptionsFile(tmp_path / "a.xlsx", FIELD)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    """A web-sized captions file must not have to fit into memory."""
    path, rows = tmp_path / f"captions{suffix}", 10_000 if suffix == ".jsonl" else 30_000
    caption = "a caption " * 40
    if suffix == ".parquet":
        table = pa.table({"caption": [f"{row} {caption}" for row in range(rows)]})
        pq.write_table(table, path, row_group_size=1000)
        del table
    else:
        with path.open("w") as stream:
            stream.write("caption\n" if suffix == ".csv" else "")
            for row in range(rows):
                text = f"{row} {caption}"
                stream.write(f"{text}\n" if suffix == ".csv" else f'{{"caption": "{text}"}}\n')
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    largest = 0
    try:
        for row, _ in enumerate(CaptionsFile(path, FIELD).rows(["caption"], Faults("stop"))):
            if row % 1000 == 0:
                largest = max(largest, pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert row == rows - 1
    assert peak < 2_000_000
    assert largest < 10_000_000
