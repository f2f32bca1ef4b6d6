"""Rows of a user's table end as others' captions, or all end for one, if these fail."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.data.formats.captions_file import CaptionsFile
from system.data.formats.tables.layout import TableLayout
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError

FIELD = "benchmark.options.captions"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding, "surrogatepass"))
    return path


def rows(path: Path, **layout: Any) -> list[tuple[str, ...]]:
    """All rows, as plain values."""
    file = CaptionsFile(path, FIELD, TableLayout(**layout))
    found = file.rows(file.columns, Faults("stop"))
    return [tuple(values[name] for name in file.columns) for _, values in found]


def quarantined(path: Path, **layout: Any) -> tuple[list[str], list[str]]:
    """First values of good rows, and reasons for the others, without the path."""
    file, faults = CaptionsFile(path, FIELD, TableLayout(**layout)), Faults("quarantine")
    good = [next(iter(values.values())) for _, values in file.rows(file.columns, faults)]
    return good, [fault.reason.removeprefix(f"{path}, ") for fault in faults.found]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_is_text_with_quotes_and_line_breaks(tmp_path: Path, end: str) -> None:
    """A task called 007 or a caption `null` must stay what it is."""
    lines = ["file_name,caption,task", 'a.jpg,"one, ""two""\nthree",007', "b.jpg,null,", "", ",,"]
    path = write(tmp_path / "a.csv", "\ufeff" + end.join([*lines, 'c.jpg,5" of dog,x']))
    assert rows(path) == [
        ("a.jpg", 'one, "two"\nthree', "007"),
        ("b.jpg", "null", ""),
        ("c.jpg", '5" of dog', "x"),
    ]


@given(st.lists(st.tuples(*(st.text(st.characters(exclude_characters="\0\r")),) * 2), max_size=6))
def test_what_a_spreadsheet_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str]]
) -> None:
    """Captions with line breaks, quotes and separators, in files of another library."""
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *table])
    path = tmp_path_factory.getbasetemp() / "spreadsheet.csv"
    path.write_bytes(stream.getvalue().encode("utf-8", "replace"))
    expected = [tuple(v.encode("utf-8", "replace").decode() for v in row) for row in table]
    assert rows(path) == [row for row in expected if any(row)]


BROKEN = [
    ("c.jpg, a dog, and a cat", r"row 3 (line 4): has 3 values, more than the 2 columns: a value"),
    ("c.jpg", "row 3 (line 4): has 1 values, fewer than the 2 columns: correct the row"),
    ('c.jpg,"a dog', "row 3 (line 4): breaks its own quoting (',' expected after '\"')"),
    ('c.jpg,"a" dog', "row 3 (line 4): breaks its own quoting (',' expected after '\"')"),
    ('c.jpg,"a dog\nand a cat', "row 3 (line 4): breaks its own quoting (',' expected after '\"')"),
    ("c.jpg,a\0dog", "row 3 (line 4): holds a NUL byte"),
    ("c.jpg,a\udc80dog", "row 3 (line 4): is not UTF-8 text but perhaps cp1252"),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN)
def test_a_row_that_breaks_its_quoting_is_refused_alone(
    tmp_path: Path, row: str, reason: str
) -> None:
    lines = ["name,caption", 'a.jpg,"x, y"', "b.jpg,x", row, "d.jpg,x", 'e.jpg,"x, y"', "f.jpg,x"]
    path = tmp_path / "a.csv"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as refused:
        rows(path)
    assert str(refused.value).startswith(f"{path}, {reason}")
    good, reasons = quarantined(path)
    assert good == ["a.jpg", "b.jpg", "d.jpg", "e.jpg", "f.jpg"]
    # of a row on two lines the second is no row either
    assert len(reasons) == 1 + row.count("\n")
    assert reasons[0].startswith(reason)


def test_a_quote_that_is_closed_in_a_later_row_swallows_none(tmp_path: Path) -> None:
    """By the letter of RFC 4180 the three rows are one, with a line break in its caption."""
    text = 'file_name,caption\na.jpg,"a dog\nb.jpg,a cat\nc.jpg,a cow"\nd.jpg,"a\nhen"\n'
    good, reasons = quarantined(write(tmp_path / "a.csv", text))
    assert good == ["b.jpg", "c.jpg", "d.jpg"]
    assert "not closed before line 3, which is another image's row" in reasons[0]


def test_spaces_behind_the_headers_commas_belong_to_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'name, caption\na, "one, two"\nb, x y\n')
    assert rows(path) == [("a", "one, two"), ("b", "x y")]
    path = write(tmp_path / "b.csv", 'name,caption\na, "one, two"\n')
    with pytest.raises(DataError, match="without a space before the first"):
        rows(path)


def test_many_unclosed_quotes_take_no_time(tmp_path: Path) -> None:
    text = "name,caption\n" + "".join(f'{i},"never closed {i}\n' for i in range(20_000))
    good, reasons = quarantined(write(tmp_path / "a.csv", text))
    assert (good, len(reasons)) == ([], 20_000)


def test_long_lines_go_in_up_to_a_bound(tmp_path: Path) -> None:
    """A table may hold vectors; a file without line ends must not be read into memory."""
    text = f"name,caption\na,{'x' * 3_000_000}\nb,{'y' * 40_000_000}\nc,z\n"
    good, reasons = quarantined(write(tmp_path / "a.csv", text))
    assert good == ["a", "c"]
    assert "row 2 (line 3): is longer than 16777216 characters" in reasons[0]


def test_in_tab_files_a_quote_is_a_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'name\tcaption\na\t"Stop" sign, red\nb\t"never closed\n')
    assert rows(path) == [("a", '"Stop" sign, red'), ("b", '"never closed')]
    quoted = write(tmp_path / "b.tsv", 'name\tcaption\na\t"x\ty"\n')
    assert rows(quoted, format="csv", separator="\\t") == [("a", "x\ty")]
    with pytest.raises(DataError, match=r"row 1 .*in quotes.*format=csv 'benchmark\.options\.sep"):
        rows(write(tmp_path / "d.tsv", 'name\tcaption\na\t"x ""y"" z"\n'))
    odd = ['""x""', '"x" and "y"', '"', '""', 'a "" b']
    text = "name\tcaption\n" + "".join(f"a\t{caption}\n" for caption in odd)
    assert [caption for _, caption in rows(write(tmp_path / "e.tsv", text))] == odd
    pipes = write(tmp_path / "c.csv", 'name|caption\na|"Stop" sign\n')
    assert rows(pipes, format="tsv", separator="|") == [("a", '"Stop" sign')]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,caption\na.jpg,A dog .\n", [("a.jpg", "A dog .")]),  # Kaggle's Flickr8k
        ("image\tcaption\na.jpg\tA dog, red\n", [("a.jpg", "A dog, red")]),
        ("a.jpg#0\tA dog .\na.jpg#1\tTwo #1 .\n", [("a.jpg", "A dog ."), ("a.jpg", "Two #1 .")]),
    ],
)
def test_txt_is_read_by_its_first_line(
    tmp_path: Path, text: str, expected: list[tuple[str, ...]]
) -> None:
    assert rows(write(tmp_path / "captions.txt", text)) == expected
    assert rows(write(tmp_path / "captions.txt", "\ufeff" + text, "utf-16-le")) == expected


def test_token_files_of_flickr8k(tmp_path: Path) -> None:
    text = "a.jpg#0\tA dog .\r\nb.jpg.1#12\tA\tcat .\r\n\r\nbroken\r\nc.jpg#0\tA cow .\r\n"
    path = write(tmp_path / "Flickr8k.token", text)
    good, reasons = quarantined(path)
    assert good == ["a.jpg", "b.jpg.1", "c.jpg"]
    assert reasons == ["row 3: 'broken' is not NAME#NUMBER, a tab and a caption"]
    with pytest.raises(DataError, match=r"row 3: 'broken' is not"):
        rows(path)
    as_tsv = write(tmp_path / "captions.tsv", text)
    assert quarantined(as_tsv, format="token")[0] == good


def test_results_of_flickr30k(tmp_path: Path) -> None:
    """The published file has a row that lacks a field, and spaces behind its separators."""
    text = (
        'image_name| comment_number| comment\n1.jpg| 0| Two men, "one" .\n'
        '2.jpg| 4   A dog runs .\n3.jpg| 1| "Stop" sign\n'
    )
    path = write(tmp_path / "results.csv", text)
    file = CaptionsFile(path, FIELD, TableLayout(separator="|"))
    assert file.columns == ("image_name", "comment_number", "comment")
    faults = Faults("quarantine")
    assert [tuple(values.values()) for _, values in file.rows(file.columns, faults)] == [
        ("1.jpg", "0", 'Two men, "one" .'),
        ("3.jpg", "1", '"Stop" sign'),
    ]
    assert [fault.name for fault in faults.found] == [f"{path}, row 2"]


def test_tables_without_header(tmp_path: Path) -> None:
    text = "a.jpg#0\tA dog .\na.jpg#1\tA dog .\n"
    path = write(tmp_path / "captions.tsv", text)
    with pytest.raises(DataError) as refused:
        CaptionsFile(path, FIELD)
    message = str(refused.value)
    for part in ("has no header", "a.jpg#0", "header=false", "columns.file_name=1", "format=token"):
        assert part in message
    assert '[file_name,caption] [cats/001.jpg,"a cat, asleep"]' in message
    file = CaptionsFile(path, FIELD, TableLayout(header=False))
    assert file.columns == ("1", "2")
    assert rows(path, header=False)[0] == ("a.jpg#0", "A dog .")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.csv", "name,caption\na,café ñ\n", encoding)
    assert rows(path) == rows(path, encoding=encoding) == [("a", "café ñ")]


def test_other_encodings_are_read_if_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "name,caption\na,chose\nb,chosé\n", "cp1252")
    with pytest.raises(DataError, match=r"row 2 .*cp1252.*encoding=cp1252.*iconv -f CP1252"):
        rows(path)
    assert rows(path, encoding="cp1252") == [("a", "chose"), ("b", "chosé")]
    with pytest.raises(DataError, match=r"row 2 .*is not ascii text: correct .*encoding"):
        rows(path, encoding="ascii")
    for unknown in ("no-such", "hex", ""):
        with pytest.raises(ConfigError, match=r"options\.encoding='.*' is unknown"):
            rows(path, encoding=unknown)
    bare = write(tmp_path / "b.csv", "name,caption\na,x\n", "utf-16-le")
    with pytest.raises(DataError, match=r"NUL byte.*encoding=utf-16-le"):
        rows(bare)
    assert rows(bare, encoding="utf-16-le") == [("a", "x")]
    odd = tmp_path / "c.csv"
    odd.write_bytes("name,caption\na,x\n".encode("utf-16") + b"\0")
    with pytest.raises(DataError, match=r"is not utf-16 text|has 1 values"):
        rows(odd)


@pytest.mark.parametrize("separator", ["", ";;", '"', "\n"])
def test_a_separator_is_one_character(separator: str) -> None:
    with pytest.raises(ConfigError, match="is not one character"):
        TableLayout(separator=separator)


@pytest.mark.parametrize(
    ("header", "layout", "advice"),
    [
        (
            "name;caption;task",
            {},
            "by semicolons: set 'benchmark.options.separator=\";\"'",
        ),
        (
            "name| caption",
            {},
            "by vertical bars: set 'benchmark.options.separator=\"|\"'",
        ),
        ("name\tcaption", {}, "separated by tabs: set 'benchmark.options.separator=\"\\t\"'"),
        ('"name"\t"caption"', {"format": "tsv"}, "its values stand in quotes"),
        ("name,caption", {}, "the first row must name the columns"),
        ("name", {}, "the first row must name the columns"),
        ("name", {"header": False}, ""),
    ],
)
def test_a_wrong_separator_is_told_by_the_header(
    tmp_path: Path, header: str, layout: dict[str, Any], advice: str
) -> None:
    path = write(tmp_path / "a.csv", f"{header}\n")
    found = CaptionsFile(path, FIELD, TableLayout(**layout)).advice
    assert advice in found
    assert bool(advice) == bool(found)
