"""Reads a run directory, finished or still running, into one frozen object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.fs as pafs

from system.errors import DataError, StorageError
from system.report.matrix_view import MatrixView
from system.report.metrics_view import MetricsView
from system.storage.files import Folder
from system.storage.foreign_json import MOST_BYTES, parse_json
from system.storage.run_directory import (
    ACCESS_LOG,
    ACCURACY_MATRIX,
    BOX_EXAMPLES,
    CONFIG,
    EXAMPLES,
    METRICS,
    SIMILARITY_SCHEMA,
    TASK_SIMILARITY,
    TRAINING_LOG,
)
from system.storage.seal import DamagedError, check_json, check_yaml


def _is_list(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return listed and bool(pa.types.is_floating(kind.value_type))


# Columns that the page reads, by file: their absence is named instead of failing later.
COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        ACCURACY_MATRIX: (
            *("trained_index", "trained_task", "evaluated_index", "evaluated_task"),
            *("metric", "value", "reason", "queries"),
        ),
        ACCESS_LOG: ("task", "split", "rows", "opened_at", "consumer", "current_task"),
        TRAINING_LOG: ("task_index", "task", "epoch", "step", "loss"),
        TASK_SIMILARITY: tuple(SIMILARITY_SCHEMA.names),
        EXAMPLES: (
            *("evaluated_index", "task", "query_index", "query", "phase", "rank"),
            *("image_id", "score", "is_target", "target_rank", "image"),
        ),
        BOX_EXAMPLES: ("task", "query", "true_box", "before_box", "after_box", "image"),
    }
)
#: What a column holds, by its name in any of these files.
_KINDS: Mapping[str, tuple[Callable[[pa.DataType], bool], str]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                *("trained_index", "evaluated_index", "query_index", "task_index", "rank"),
                *("target_rank", "epoch", "step", "rows", "queries", "other_index"),
            ),
            (pa.types.is_integer, "whole numbers"),
        ),
        **dict.fromkeys(
            ("task", "split", "consumer", "query", "phase"), (pa.types.is_string, "texts")
        ),
        **dict.fromkeys(("score", "loss", "similarity"), (pa.types.is_floating, "numbers")),
        **dict.fromkeys(("true_box", "before_box", "after_box"), (_is_list, "lists of numbers")),
        "opened_at": (pa.types.is_timestamp, "times"),
        **dict.fromkeys(("is_target", "attracts"), (pa.types.is_boolean, "true or false")),
        "image": (pa.types.is_binary, "encoded pictures"),
    }
)
# Columns that lack a value in some rows, by right.
_SPARSE = {
    *("trained_task", "reason", "current_task", "loss", "true_box", "before_box", "after_box"),
    "attracts",
}
#: Files that any run has in the end.
FILES = (METRICS, *(name for name in COLUMNS if name != TASK_SIMILARITY), CONFIG)
_REMEDY = "give the directory of a run, <storage_path>/<run name>"
_AGAIN = "run the same `promptide run` command again, it rewrites the file"


@dataclass(frozen=True)
class RunData:
    """The files of a run directory, parsed; None stands for one that is not there (yet)."""

    location: str
    metrics: MetricsView
    matrix: MatrixView | None
    access_log: pa.Table | None
    training_log: pa.Table | None
    examples: pa.Table | None
    box_examples: pa.Table | None
    config: str | None
    missing: tuple[str, ...]
    similarity: pa.Table | None = None  # of a run of few tasks metrics.json has it

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in the order of the stream, empty when no file names them."""
        return self.metrics.tasks or (self.matrix.tasks if self.matrix else ())

    @property
    def finished(self) -> bool:
        """True once the run has written its final metrics."""
        return METRICS not in self.missing


def read_run(run_dir: str | Path) -> RunData:
    """Read every known file of a run directory; a missing one is listed, not an error.

    Args:
        run_dir: a local path or a pyarrow filesystem URI.

    Raises:
        StorageError: the directory does not exist, holds no file of a run, or cannot be read.
        DataError: a file is there but cannot be understood.
    """
    folder = Folder.of(run_dir)
    present = _present_files(folder)
    whole = [name for name in COLUMNS if name in present and name != ACCURACY_MATRIX]
    tables = {name: _table(folder, name) for name in whole}
    return RunData(
        location=folder.uri,
        metrics=MetricsView(_metrics(folder) if METRICS in present else {}),
        matrix=_matrix(folder) if ACCURACY_MATRIX in present else None,
        access_log=tables.get(ACCESS_LOG),
        training_log=tables.get(TRAINING_LOG),
        examples=tables.get(EXAMPLES),
        box_examples=tables.get(BOX_EXAMPLES),
        config=_text(folder, CONFIG) if CONFIG in present else None,
        missing=tuple(name for name in FILES if name not in present | _instead(present)),
        similarity=tables.get(TASK_SIMILARITY),
    )


def _instead(present: set[str]) -> set[str]:
    """The kind of example file that does not apply: a run has one of the two, or none yet."""
    return {EXAMPLES if BOX_EXAMPLES in present else BOX_EXAMPLES}


def _present_files(folder: Folder) -> set[str]:
    """Names of the run's files that are in the folder."""
    try:
        kind = folder.filesystem.get_file_info(folder.path).type
        names = set(folder.names()) if kind == pafs.FileType.Directory else set()
    except OSError as error:
        raise StorageError(
            f"{folder.uri} cannot be listed ({error}); check the path and its permissions"
        ) from error
    if kind != pafs.FileType.Directory:
        problem = "does not exist" if kind == pafs.FileType.NotFound else "is a file"
        raise StorageError(f"{folder.uri} {problem}: {_REMEDY}")
    present = names & {*FILES, TASK_SIMILARITY}
    if not present:
        raise StorageError(
            f"{folder.uri} is no run directory, it holds none of {', '.join(FILES)}: {_REMEDY}"
        )
    return present


def _table(folder: Folder, name: str) -> pa.Table:
    try:
        # Of pairs of tasks no row becomes an object of Python.
        table = folder.read_table(name, values=name != TASK_SIMILARITY)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder.file_uri(name)}: broken Parquet ({error}); {_AGAIN}") from error
    _require_columns(table, folder, name)
    return table


def _require_columns(table: pa.Table, folder: Folder, name: str) -> None:
    absent = [column for column in COLUMNS[name] if column not in table.column_names]
    if absent:
        raise DataError(
            f"{folder.file_uri(name)}: column {', '.join(absent)} is missing; another version of "
            "promptide wrote it: make the report with that version"
        )
    for column in COLUMNS[name]:
        fits, what = _KINDS.get(column, (lambda kind: True, ""))
        kind = table.schema.field(column).type
        if pa.types.is_null(kind) and table.num_rows == 0:
            continue  # of a table without rows
        if not fits(kind):
            raise DataError(
                f"{folder.file_uri(name)}: column {column} holds {kind}, not {what}; {_AGAIN}"
            )
        if column not in _SPARSE and table.column(column).null_count:
            raise DataError(f"{folder.file_uri(name)}: column {column} lacks values; {_AGAIN}")


def _matrix(folder: Folder) -> MatrixView | None:
    """The accuracy matrix, read a row group at a time; None where it has no entry yet."""
    tables, entries = folder.table_groups(ACCURACY_MATRIX), 0
    for table in tables:
        _require_columns(table, folder, ACCURACY_MATRIX)
        entries += table.num_rows
    try:
        return MatrixView.from_tables(tables) if entries else None
    except DataError as error:
        raise DataError(f"{folder.file_uri(ACCURACY_MATRIX)}: {error}") from error


def _metrics(folder: Folder) -> dict[str, object]:
    where = folder.file_uri(METRICS)
    try:
        with folder.opened(METRICS) as stream:
            data = bytes(stream.read(MOST_BYTES + 1))
        metrics = check_json(data, parse_json(data))
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); {_AGAIN}") from error
    except DamagedError as error:
        raise DataError(f"{where}: damaged ({error}); {_AGAIN}") from error
    if not isinstance(metrics, dict):
        raise DataError(f"{where}: holds a {type(metrics).__name__}, not an object; {_AGAIN}")
    if "stage" in metrics:  # of a stream there is none
        raise DataError(
            f"{where} is of stage={metrics['stage']}, no stream; if an earlier promptide trained "
            "it, its own report.html stays as it is: train again under another run_name for a new "
            "one"
        )
    return metrics


def _text(folder: Folder, name: str) -> str:
    try:
        data = folder.read(name)
        check_yaml(data)
        return data.decode()
    except DamagedError as error:
        raise folder.damaged(name, error) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{folder.file_uri(name)}: not UTF-8 text ({error}); save it as UTF-8"
        ) from error
