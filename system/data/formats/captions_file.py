"""A user's captions: one table of any format, or several of the same columns, in flat memory."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from system.data.formats.tables.delimited import DelimitedTable, TokenTable, is_token_line
from system.data.formats.tables.json_tables import JsonLinesTable, json_table
from system.data.formats.tables.layout import Row, Table, TableFormat, TableLayout
from system.data.formats.tables.parquet_table import ParquetTable
from system.data.formats.tables.text_lines import first_line
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError, PromptideError

_SUFFIXES: dict[str, TableFormat | None] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": None,  # the first line says it
    ".token": "token",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class TableFile:
    """One file of the captions, and how it is read."""

    path: Path
    table: Table

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the rows, each with its place; only those of the named columns that it has.

        Raises: DataError naming file and row if the file cannot be read on, or through `faults`.
        """
        with _reading(self.path):
            own = [name for name in columns if name in self.table.columns]
            yield from self.table.rows(own, faults)


class CaptionsFile:
    """Columns and rows of a file, of all Parquet files below a folder, or of a pattern's files.

    The suffix says the format unless `layout` does. Values of delimited text come as text, those of
    JSON and Parquet keep their types.
    """

    def __init__(self, path: Path, field: str, layout: TableLayout | None = None) -> None:
        """Find files and columns; `field` is the config field that names `path`.

        Raises: ConfigError for an unknown suffix, DataError for a file that is missing, unreadable
        or not laid out as `layout` and suffix say.
        """
        self.path = path
        layout = layout or TableLayout()
        files: list[TableFile] = []
        for file in _existing(path, field):
            with _reading(file):
                files.append(TableFile(file, _open(file, field, layout)))
            _check_distinct(file, files[-1].table.columns)
        self.files: Sequence[TableFile] = files
        self.columns = tuple(dict.fromkeys(name for file in files for name in file.table.columns))
        # Columns whose values are encoded images.
        self.images = tuple(name for name in files[0].table.images if name in self.columns)
        self.advice = files[0].table.advice

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the rows of all files, as `TableFile.rows`."""
        for file in self.files:
            yield from file.rows(columns, faults)


def table_files(path: Path) -> list[Path]:
    """Return the files that a path stands for: itself, a folder's Parquet files, a pattern's."""
    if os.path.isdir(path):  # Path.is_dir would raise for a name that is too long
        return sorted(path.rglob("*.parquet"))
    if os.path.isfile(path):
        return [path]
    base = path
    while not os.path.isdir(base):
        base = base.parent
    pattern = str(path.relative_to(base))
    if not any(mark in pattern for mark in "*?["):
        return []
    return sorted(file for file in base.glob(pattern) if file.is_file())


def _existing(path: Path, field: str) -> list[Path]:
    found = table_files(path)
    if not found and os.path.isdir(path):
        raise DataError(
            f"{field}: the folder {path} holds no Parquet files: name the captions file, or "
            "several by a pattern such as data/*.jsonl"
        )
    if not found:
        tables = _tables_beside(path)
        advice = f"set {field} to {' or '.join(tables)}" if tables else "correct this field"
        raise DataError(f"{field}: the file {path} does not exist: {advice}")
    return found


def _tables_beside(path: Path) -> list[str]:
    """Name a few files that could be meant instead of a missing one."""
    if not os.path.isdir(path.parent):
        return []
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if Path(entry.name).suffix.lower() in _SUFFIXES]
    return sorted(name for name in names if not name.lower().startswith(("readme", "license")))[:3]


def _open(path: Path, field: str, layout: TableLayout) -> Table:
    kind = layout.format
    if kind is None:
        suffix = path.suffix.lower()
        if suffix not in _SUFFIXES:
            raise ConfigError(
                f"{field}: {path.name!r} has no suffix of {', '.join(_SUFFIXES)}: set "
                "benchmark.options.format to what it is (csv, tsv, token, jsonl, json, parquet)"
            )
        kind = _SUFFIXES[suffix]
    with path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise DataError(
                f"{path}: is a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
                "git lfs pointer",
            )
    if kind is None:
        kind = _format_of_text(first_line(path, layout.encoding), layout)
    if kind == "csv" or kind == "tsv":
        return DelimitedTable(path, layout, quoted=kind == "csv")
    if kind == "token":
        return TokenTable(path, layout)
    if kind == "jsonl":
        return JsonLinesTable(path, layout)
    return json_table(path, field, layout) if kind == "json" else ParquetTable(path)


def _format_of_text(line: str, layout: TableLayout) -> TableFormat:
    if layout.separator is None and is_token_line(line.rstrip("\r\n")):
        return "token"
    return "tsv" if (layout.separator_character or "\t") == "\t" and "\t" in line else "csv"


def _check_distinct(path: Path, columns: Sequence[str]) -> None:
    # Columns without a name are those of separators at the lines' ends, or a data frame's index.
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} is there twice")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except PromptideError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())  # Parquet's errors have several lines
        raise DataError(f"{path}: cannot be read ({reason}): correct the file") from error
