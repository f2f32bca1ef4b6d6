"""A user's captions file (CSV, JSON lines, Parquet): its rows, in flat memory."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError

# the row's place in the file, for messages, and its values by column
Row = tuple[str, Mapping[str, Any]]

UNKNOWN_SPLIT = "unknown"  # split of a broken row that names none

_ROWS = 1024
# No row of a CSV file may be longer; pyarrow reads about thirty such blocks ahead.
_CSV_BLOCK_BYTES = 1 << 18


class CaptionsFile:
    """The columns and rows of a captions file; the suffix says the format.

    CSV (`.csv`, `.tsv`) needs a header; its values come as text. JSON lines (`.jsonl`, `.ndjson`)
    holds one object per line; its columns are the fields of any. Parquet (`.parquet`) keeps its
    types.
    """

    def __init__(self, path: Path, field: str) -> None:
        """Read the columns; `field` is the config field that names the file.

        Raises: ConfigError for another suffix, DataError if the file is missing or unreadable.
        """
        if path.suffix.lower() not in _READERS:
            raise ConfigError(
                f"{field}: {path.name!r} has no suffix of {', '.join(_READERS)}: one of them is "
                "needed, as it says the format"
            )
        if not path.is_file():
            raise DataError(f"{field}: the file {path} does not exist: correct this field")
        self.path = path
        columns, self._rows = _READERS[path.suffix.lower()]
        with _reading(path):
            self.columns = tuple(columns(path))
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise DataError(f"{path}: the column {twice[0]!r} is there twice")

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the rows, each with its place; only the named columns are read.

        A line that is no JSON object is a broken row.
        Raises: DataError naming file and row if the file cannot be read on, or through `faults`.
        """
        with _reading(self.path):
            yield from self._rows(self.path, columns, faults)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}): correct the file") from error


def _batched(batches: Iterator[pa.RecordBatch], path: Path) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            for values in batch.slice(start, _ROWS).to_pylist():
                number += 1
                yield f"{path}, row {number}", values


def _csv_columns(path: Path) -> list[str]:
    with _open_csv(path, None) as reader:
        names: list[str] = reader.schema.names
    return names


def _csv_rows(path: Path, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
    with _open_csv(path, columns) as reader:
        yield from _batched(iter(reader), path)


def _open_csv(path: Path, columns: Sequence[str] | None) -> csv.CSVStreamingReader:
    convert = csv.ConvertOptions()
    if columns is not None:
        # Text, whatever it looks like: a caption or a task may be a number.
        convert = csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
        )
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
        parse_options=csv.ParseOptions(
            delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
        ),
        convert_options=convert,
    )


def _json_columns(path: Path) -> list[str]:
    names: dict[str, None] = {}
    for _, values in _json_rows(path, (), Faults("quarantine")):  # `rows` reports broken lines
        names.update(dict.fromkeys(values))
    return list(names)


def _json_rows(path: Path, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
    # Line by line and not by pyarrow, whose streaming reader takes the types of the first block for
    # those of the file and cannot say which line is broken.
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            rows: list[Row] = []
            with faults.row(UNKNOWN_SPLIT, where):
                rows.append((where, _json_object(line, where)))
            yield from rows


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: is not an object but {type(values).__name__}")
    return values


def _parquet_columns(path: Path) -> list[str]:
    with pq.ParquetFile(path) as file:
        names: list[str] = file.schema_arrow.names
    return names


def _parquet_rows(path: Path, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        yield from _batched(file.iter_batches(_ROWS, columns=list(columns)), path)


_Columns = Callable[[Path], list[str]]
_Rows = Callable[[Path, Sequence[str], Faults], Iterator[Row]]

_READERS: dict[str, tuple[_Columns, _Rows]] = {
    ".csv": (_csv_columns, _csv_rows),
    ".tsv": (_csv_columns, _csv_rows),
    ".jsonl": (_json_columns, _json_rows),
    ".ndjson": (_json_columns, _json_rows),
    ".parquet": (_parquet_columns, _parquet_rows),
}
