from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.errors import DataError
from system.results.accuracy_matrix import (
    AccuracyMatrix,
    MatrixRow,
    matrix_rows,
)
from system.results.metrics import MetricValue
from system.results.stream_metrics import retention
from system.storage.files import Folder
from system.storage.run_directory import (
    ACCURACY_MATRIX,
    MATRIX_SCHEMA,
    MatrixFile,
    matrix_columns,
    matrix_tables,
)

METRIC = "t2i_r1"
TASKS = ("person", "vehicle", "animal")
ZERO_SHOT = [20.0, 30.0, 40.0]
R = [[50.0, 35.0, 38.0], [44.0, 60.0, 45.0], [40.0, 66.0, 70.0]]


def _rows(values: list[list[float]], first: int = 0) -> list[MatrixRow]:
    return [
        MatrixRow(i, j, METRIC, value, 10, "too few images" if math.isnan(value) else None)
        for i, row in enumerate(values, start=first)
        for j, value in enumerate(row)
    ]


def _full() -> AccuracyMatrix:
    return AccuracyMatrix(TASKS, _rows([ZERO_SHOT], first=-1) + _rows(R))


def _table(*matrices: AccuracyMatrix) -> pa.Table:
    chunks = [chunk for matrix in matrices for chunk in matrix.columns()]
    return pa.concat_tables(matrix_tables(chunks))


def _matrix(table: pa.Table, *, held_out: bool = False) -> AccuracyMatrix:
    return AccuracyMatrix.from_columns([matrix_columns(table)], held_out=held_out)


def test_values_hold_the_upper_triangle_and_zero_shot() -> None:
    matrix = _full()
    np.testing.assert_array_equal(matrix.values(METRIC), R)
    np.testing.assert_array_equal(matrix.zero_shot(METRIC), ZERO_SHOT)
    assert np.isnan(matrix.values("i2t_r1")).all()
    assert matrix.metrics == (METRIC,)


def test_table_survives_a_file_and_comes_back_equal(tmp_path: Path) -> None:
    values = [[50.0, math.nan, 38.0], *R[1:]]
    matrix = AccuracyMatrix(TASKS, _rows([ZERO_SHOT], first=-1) + _rows(values))
    pq.write_table(_table(matrix), tmp_path / "accuracy_matrix.parquet")
    table = pq.read_table(tmp_path / "accuracy_matrix.parquet")
    assert table.schema.equals(MATRIX_SCHEMA)
    assert table["trained_task"].to_pylist()[:4] == [None, None, None, "person"]
    again = _matrix(table)
    assert again.tasks == matrix.tasks
    assert repr(again.rows) == repr(matrix.rows)  # NaN is not equal to itself


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_a_file_is_read_a_row_group_at_a_time(tmp_path: Path, size: int) -> None:
    """That of 1,000 tasks has more entries than are read at once, and tasks cross its groups."""
    other = [replace(row, metric="i2t_r1") for row in _rows([[1.0, 2.0, math.nan], *R[1:]])]
    matrix = AccuracyMatrix(TASKS, _rows([ZERO_SHOT], first=-1) + _rows(R) + other)
    pq.write_table(_table(matrix), tmp_path / ACCURACY_MATRIX, row_group_size=size)
    file = MatrixFile.of(Folder.of(tmp_path))
    assert next(len(columns["value"]) for columns in file) == min(size, len(matrix.rows))
    assert repr(AccuracyMatrix.from_columns(file).rows) == repr(matrix.rows)


def test_a_few_entries_do_not_ask_for_any_number_of_cells() -> None:
    """A file of some KB names a million tasks, each evaluated on itself: 12 TB of cells."""
    count = 10_000
    place = np.arange(count, dtype=np.int32)
    nothing = np.full(count, -1, np.int32)
    tasks = (place, [str(j) for j in range(count)])
    columns = {
        "trained_index": place,
        "trained_task": tasks,
        "evaluated_index": place,
        "evaluated_task": tasks,
        "metric": (np.zeros(count, np.int32), [METRIC]),
        "value": np.full(count, 50.0),
        "reason": (nothing, []),
        "queries": np.ones(count, np.int32),
        "held_out": (nothing, []),
    }
    with pytest.raises(DataError, match="10,000 tasks and 1 metrics has 100,000,000 cells"):
        AccuracyMatrix.from_columns([columns])


def test_rows_of_held_out_benchmarks_are_kept_apart(tmp_path: Path) -> None:
    """A benchmark that no task is of would count as a task that was forgotten, or gained."""
    held_out = AccuracyMatrix(TASKS, _rows([[70.0]], -1) + _rows([[68.0], [60.0]]), ["flickr30k"])
    table = _table(_full(), held_out)
    pq.write_table(table, tmp_path / "accuracy_matrix.parquet")
    table = pq.read_table(tmp_path / "accuracy_matrix.parquet")
    assert _matrix(table).rows == _full().rows
    again = _matrix(table, held_out=True)
    assert (again.tasks, again.evaluated, again.rows) == (TASKS, ("flickr30k",), held_out.rows)
    assert again.values(METRIC)[:, 0].tolist()[:2] == [68.0, 60.0]
    assert retention(again, METRIC, 0).value == -10.0
    assert set(table["held_out"].to_pylist()) == {None, "flickr30k"}


def test_a_table_of_an_earlier_version_is_read() -> None:
    """Runs of before held-out benchmarks would lose their report."""
    table = _table(_full()).drop_columns(["held_out"])
    assert _matrix(table).rows == _full().rows


def test_rows_of_an_evaluation_extend_a_matrix() -> None:
    figures = {METRIC: {0: MetricValue(40.0, 10), 1: MetricValue(math.nan, 0, "no queries")}}
    rows = matrix_rows(1, figures)
    assert rows[0] == MatrixRow(1, 0, METRIC, 40.0, 10)
    assert (rows[1].queries, rows[1].reason) == (0, "no queries")
    extended = AccuracyMatrix(TASKS, _rows(R[:1])).with_rows(rows)
    assert extended.values(METRIC)[1, 0] == 40.0


def test_the_same_entry_twice_is_refused() -> None:
    """A task committed twice would otherwise let the later figure win unseen."""
    with pytest.raises(DataError, match="twice"):
        AccuracyMatrix(TASKS, _rows(R)).with_rows(_rows(R[:1]))


def test_entries_of_unknown_tasks_are_refused() -> None:
    with pytest.raises(DataError, match="outside"):
        AccuracyMatrix(TASKS, [MatrixRow(3, 0, METRIC, 1.0, 1)])


def test_a_foreign_table_is_refused() -> None:
    table = _table(_full())
    with pytest.raises(DataError, match="columns"):
        _matrix(table.drop_columns(["reason"]))
    with pytest.raises(DataError, match="columns"):
        _matrix(table.select(["value"]))
    for name, said in (("queries", "rows without queries"), ("evaluated_task", "no name for task")):
        place = table.schema.get_field_index(name)
        empty = pa.nulls(table.num_rows, table.schema.field(place).type)
        with pytest.raises(DataError, match=said):
            _matrix(table.set_column(place, table.schema.field(place), empty))
    with pytest.raises(DataError, match="leaves out"):
        _matrix(table.filter([j != 0 and i != 0 for i, j in _indices(table)]))


def _indices(table: object) -> list[tuple[int, int]]:
    columns = table.to_pydict()  # type: ignore[attr-defined]
    return list(zip(columns["trained_index"], columns["evaluated_index"], strict=True))
