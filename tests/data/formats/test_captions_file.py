"""A user's captions are misread, or an error does not say where, if these fail."""

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.data.formats.captions_file import CaptionsFile
from system.data.formats.tables.layout import TableLayout
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError

FIELD = "benchmark.options.captions"


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    table = pa.table({"file_name": ["a", "b"], "caption": [["x", "y"], []], "image_id": [5, None]})
    pq.write_table(table, path)
    file = CaptionsFile(path, FIELD)
    assert list(file.rows(["caption", "image_id"], Faults("stop"))) == [
        (f"{path}, row 1", {"caption": ["x", "y"], "image_id": 5}),
        (f"{path}, row 2", {"caption": [], "image_id": None}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv: is empty\. A CSV that can be read"),
        ("a.csv", b"x,x\n1,2\n", r"a\.csv: the column 'x' is there twice"),
        ("a.csv", b'"x\n1,2\n', r"a\.csv, line 1: breaks its own quoting"),
        ("a.txt", b"", r"a\.txt: is empty"),
        ("a.json", b"", r"a\.json: "),
        ("a.json", b"[", r"a\.json: "),
        ("a.parquet", b"PAR1", r"a\.parquet: cannot be read"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", r"a\.csv: is a pointer of Git"),
    ],
)
def test_file_that_is_broken_says_where(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        CaptionsFile(tmp_path / name, FIELD)


def test_missing_file_and_unknown_format_name_the_field(tmp_path: Path) -> None:
    for name in ("a.csv", "no/a.csv", "*.parquet", "x" * 5000):
        with pytest.raises(DataError, match=r"options\.captions: the file .* does not exist"):
            CaptionsFile(tmp_path / name, FIELD)
    with pytest.raises(DataError, match=r"options\.captions: the folder .* holds no Parquet files"):
        CaptionsFile(tmp_path, FIELD)
    (tmp_path / "a.xlsx").write_bytes(b"")
    (tmp_path / "results.csv").write_bytes(b"")
    (tmp_path / "README.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"captions to results\.csv$"):
        CaptionsFile(tmp_path / "captions.csv", FIELD)
    with pytest.raises(ConfigError, match=r"options\.captions: 'a\.xlsx' has no suffix of \.csv"):
        CaptionsFile(tmp_path / "a.xlsx", FIELD)
    (tmp_path / "captions").write_text("a,b\n1,2\n")
    assert CaptionsFile(tmp_path / "captions", FIELD, TableLayout("csv")).columns == ("a", "b")


def test_several_files_are_one_table(tmp_path: Path) -> None:
    """A column that a file has not is empty there."""
    for number in (0, 1):
        table = pa.table({"a": [number], f"b{number}": ["x"]})
        (tmp_path / f"{number}").mkdir()
        pq.write_table(table, tmp_path / f"{number}/train.parquet")
    (tmp_path / "[odd] name").mkdir()
    (tmp_path / "[odd] name/a.jsonl").write_text(json.dumps({"a": 1}))
    for path in (tmp_path, tmp_path / "*/*.parquet", tmp_path / "[01]/train.*"):
        file = CaptionsFile(path, FIELD)
        assert file.columns == ("a", "b0", "b1")
        rows = [dict(values) for _, values in file.rows(file.columns, Faults("stop"))]
        assert rows == [{"a": 0, "b0": "x"}, {"a": 1, "b1": "x"}]
    assert CaptionsFile(tmp_path / "[odd] name/*.jsonl", FIELD).columns == ("a",)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".token", ".jsonl", ".json", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    """A web-sized captions file must not have to fit into memory."""
    path, rows = tmp_path / f"captions{suffix}", 10_000 if "json" in suffix else 30_000
    caption = "a caption " * 40
    if suffix == ".parquet":
        table = pa.table({"caption": [f"{row} {caption}" for row in range(rows)]})
        pq.write_table(table, path, row_group_size=1000)
        del table
    else:
        begin, line = {
            ".csv": ("caption\n", "{}\n"),
            ".tsv": ("caption\n", "{}\n"),
            ".token": ("", "a.jpg#0\t{}\n"),
            ".jsonl": ("", '{{"caption": "{}"}}\n'),
            ".json": ("[{}", ', {{"caption": "{}"}}\n'),
        }[suffix]
        with path.open("w") as stream:
            stream.write(begin)
            for row in range(rows):
                stream.write(line.format(f"{row} {caption}"))
            stream.write("]" if suffix == ".json" else "")
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    largest = row = 0
    try:
        found = CaptionsFile(path, FIELD).rows(["caption"], Faults("stop"))
        for row, _ in enumerate(found, 1):
            if row % 1000 == 0:
                largest = max(largest, pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert row == rows + (suffix == ".json")
    assert peak < 4_000_000
    assert largest < 10_000_000
