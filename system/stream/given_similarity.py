"""How alike tasks are, as a file says: a table with a row and a column a task."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from system.config.schema import BenchmarkConfig
from system.errors import DataError
from system.storage.files import Folder

SYMMETRY_TOLERANCE = 1e-6
KEY = "benchmark.similarity"
Row = tuple[Any, Mapping[str, Any]]  # a task, and its similarity to each task by name


@dataclass(frozen=True)
class GivenSimilarity:
    """Similarities in [-1, 1], symmetric, of the tasks that a file names."""

    file: str
    values: Mapping[str, Mapping[str, float]]

    def between(self, one: str, other: str) -> float:
        """Of two tasks of the file."""
        return self.values[one][other]

    def require(self, tasks: Iterable[str]) -> None:
        """Raises DataError naming the first of these tasks that the file has not."""
        for task in tasks:
            if task not in self.values:
                raise DataError(
                    f"{KEY}={self.file} has no task {task!r}: it has {', '.join(self.values)}"
                )

    @classmethod
    def read(cls, file: str) -> "GivenSimilarity":
        """Read a `.csv`, `.json` or `.parquet` by path or URI.

        CSV and Parquet: the first column names the task of a row, each other column is a task.
        JSON: {task: {task: similarity}}. Raises StorageError for a file that is not there,
        DataError naming what is wrong in it.
        """
        path = file.partition("?")[0]
        kind = path.rpartition(".")[2].lower()
        if kind not in _READERS:
            raise DataError(f"{KEY}={file}: give a .csv, .json or .parquet file")
        folder, _, name = file.rpartition("/")
        data = Folder.of(folder or ".").read(name)
        try:
            rows = list(_READERS[kind](data))
        except (pa.ArrowException, ValueError, AttributeError, OSError) as error:
            raise DataError(f"{KEY}={file} is no table of tasks by tasks: {error}") from error
        return cls(file, _checked(rows, file))


def given_similarity(benchmark: BenchmarkConfig) -> GivenSimilarity | None:
    """The similarities of the file that the config names, if it names one."""
    return None if benchmark.similarity is None else GivenSimilarity.read(benchmark.similarity)


def _checked(rows: Sequence[Row], file: str) -> dict[str, dict[str, float]]:
    names = [str(name) for name, _ in rows]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{KEY}={file}: rows {names} must name at least one task, and none twice")
    values: dict[str, dict[str, float]] = {}
    for name, row in zip(names, (row for _, row in rows), strict=True):
        if set(row) != set(names):
            raise DataError(
                f"{KEY}={file}: the row of {name!r} has columns {sorted(row)}, the rows are "
                f"{sorted(names)}; each task needs a row and a column"
            )
        for other, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or abs(value) > 1:
                raise DataError(
                    f"{KEY}={file}: {name!r} and {other!r} have {value!r}; give a number in [-1, 1]"
                )
        values[name] = {other: float(value) for other, value in row.items()}
    for one in names:
        for other in names:
            if abs(values[one][other] - values[other][one]) > SYMMETRY_TOLERANCE:
                raise DataError(
                    f"{KEY}={file} is not symmetric: {one!r} and {other!r} have "
                    f"{values[one][other]}, {other!r} and {one!r} {values[other][one]}"
                )
    return values


def _json_rows(data: bytes) -> Iterable[Row]:
    return [(name, dict(row.items())) for name, row in json.loads(data).items()]


def _csv_rows(data: bytes) -> Iterable[Row]:
    return _table_rows(pyarrow.csv.read_csv(BytesIO(data)))


def _parquet_rows(data: bytes) -> Iterable[Row]:
    return _table_rows(pq.read_table(pa.BufferReader(data)))


def _table_rows(table: pa.Table) -> Iterable[Row]:
    first, *others = table.column_names
    if len(set(others)) < len(others):
        raise ValueError(f"columns {others} name a task twice")
    return [(row[first], {name: row[name] for name in others}) for row in table.to_pylist()]


_READERS = {"json": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}
