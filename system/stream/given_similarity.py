"""How alike tasks are, as a file says: a table with a row and a column a task.

Its rows and columns are found by the tasks' names; numbers alone, as NumPy writes an array, are in
the order of the prepared benchmark's tasks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from system.config.schema import ExperimentConfig
from system.data.shards.manifest import Manifest
from system.errors import DataError
from system.storage.data_directory import DataDirectory
from system.storage.files import Folder
from system.storage.foreign_json import parse_json
from system.storage.foreign_tables import read_table

TOLERANCE = 1e-6  # of rounding, in symmetry and beyond -1 and 1
KEY = "benchmark.similarity"
KINDS = ".csv, .json, .parquet, .txt or .npy"
Row = tuple[Any, Mapping[str, Any]]  # a task, and its similarity to each task by name


@dataclass(frozen=True)
class GivenSimilarity:
    """Similarities in [-1, 1], symmetric, of the tasks that a file names."""

    file: str
    values: Mapping[str, Mapping[str, float]]
    named: bool = True  # by the file; else its rows were taken in the prepared benchmark's order

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

    @property
    def notes(self) -> tuple[str, ...]:
        """A line on what was taken for granted, if anything was."""
        if self.named:
            return ()
        tasks = ", ".join(self.values)
        return (f"{KEY}={self.file} names no tasks: its rows are taken as {tasks}",)

    @classmethod
    def read(cls, file: str, prepared: Sequence[str]) -> "GivenSimilarity":
        """Read a `.csv`, `.json`, `.parquet`, `.txt` or `.npy` by path or URI.

        CSV and Parquet: the first column names the task of a row, each other column is a task.
        JSON: {task: {task: similarity}}. A `.txt` holds numbers alone, between white space or
        commas, as `numpy.savetxt` writes them, and so may a CSV; a `.npy` is an array, never
        pickled. Then there must be a row and a column for each of the `prepared` tasks, all that
        the benchmark has, in their order.

        Raises StorageError for a file that is not there, DataError naming what is wrong in it.
        """
        path = file.partition("?")[0]
        kind = path.rpartition(".")[2].lower()
        if kind not in _READERS and kind not in _ARRAYS:
            raise DataError(f"{KEY}={file}: give a {KINDS} file")
        folder, _, name = file.rpartition("/")
        data = Folder.of(folder or ".").read(name)
        try:
            array = _ARRAYS[kind](data) if kind in _ARRAYS else None
            rows = list(_READERS[kind](data)) if array is None else _in_order(array, prepared)
        except (pa.ArrowException, ValueError, AttributeError, OSError, EOFError) as error:
            raise DataError(f"{KEY}={file} is no table of tasks by tasks: {error}") from error
        return cls(file, _checked(rows, file), named=array is None)


def given_similarity(experiment: ExperimentConfig) -> GivenSimilarity | None:
    """The similarities of the file that the config names, if it names one.

    Raises DataError too where the benchmark is not prepared, whose tasks a file without names has.
    """
    benchmark = experiment.benchmark
    if benchmark.similarity is None:
        return None
    folder = DataDirectory.of(experiment).benchmark(benchmark.name)
    tasks = [task.name for task in Manifest.prepared(folder, benchmark.name).tasks]
    return GivenSimilarity.read(benchmark.similarity, tasks)


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
            if not number or not math.isfinite(value) or abs(value) > 1 + TOLERANCE:
                raise DataError(
                    f"{KEY}={file}: {name!r} and {other!r} have {value!r}; give a number in [-1, 1]"
                )
        values[name] = {other: min(1.0, max(-1.0, value)) for other, value in row.items()}
    for one in names:
        for other in names:
            if abs(values[one][other] - values[other][one]) > TOLERANCE:
                raise DataError(
                    f"{KEY}={file} is not symmetric: {one!r} and {other!r} have "
                    f"{values[one][other]}, {other!r} and {one!r} {values[other][one]}"
                )
    return values


def _in_order(array: NDArray[Any], tasks: Sequence[str]) -> list[Row]:
    """The rows of a matrix without names. Raises ValueError for another size."""
    if array.shape != (len(tasks), len(tasks)):
        size = " x ".join(map(str, array.shape)) or "one number"
        raise ValueError(
            f"it names no tasks and is {size}, but the prepared benchmark has {len(tasks)}: "
            f"{', '.join(tasks)}; give a row and a column for each in this order, or a .csv with "
            "their names"
        )
    rows = [dict(zip(tasks, row, strict=True)) for row in array.astype(np.float64).tolist()]
    return list(zip(tasks, rows, strict=True))


def _text_array(data: bytes) -> NDArray[Any]:
    lines = data.decode().replace(",", " ").splitlines()
    return np.loadtxt(lines, ndmin=2) if any(map(str.strip, lines)) else np.zeros((0, 0))


def _csv_array(data: bytes) -> NDArray[Any] | None:
    """The numbers of a table that has nothing else; None for one with names."""
    try:
        return _text_array(data)
    except ValueError:
        return None


def _npy_array(data: bytes) -> NDArray[Any]:
    found = np.load(BytesIO(data), allow_pickle=False)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise ValueError("it holds no array of numbers")
    return found


def _json_rows(data: bytes) -> Iterable[Row]:
    return [(name, dict(row.items())) for name, row in parse_json(data).items()]


def _csv_rows(data: bytes) -> Iterable[Row]:
    return _table_rows(pyarrow.csv.read_csv(BytesIO(data)))


def _parquet_rows(data: bytes) -> Iterable[Row]:
    return _table_rows(read_table(data))


def _table_rows(table: pa.Table) -> Iterable[Row]:
    first, *others = table.column_names
    if len(set(others)) < len(others):
        raise ValueError(f"columns {others} name a task twice")
    return [(row[first], {name: row[name] for name in others}) for row in table.to_pylist()]


_READERS = {"json": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}
_ARRAYS = {"txt": _text_array, "csv": _csv_array, "npy": _npy_array}
