from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from system.errors import DataError
from system.results.accuracy_matrix import (
    AccuracyMatrix,
    MatrixRow,
    matrix_rows,
)
from system.results.metrics import MetricValue
from system.storage.run_directory import MATRIX_SCHEMA, matrix_records, matrix_table

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


def test_summaries_follow_their_formulas() -> None:
    matrix = _full()
    assert matrix.average(METRIC).value == pytest.approx((40 + 66 + 70) / 3)
    assert matrix.forgetting(METRIC).value == pytest.approx(((50 - 40) + (60 - 66)) / 2)
    assert matrix.forward_transfer(METRIC).value == pytest.approx(((35 - 30) + (45 - 40)) / 2)
    expected = ((50 + 44 + 40) / 3 + (60 + 66) / 2 + 70) / 3
    assert matrix.published_average(METRIC).value == pytest.approx(expected)
    assert matrix.published_forgetting(METRIC).value == pytest.approx(((40 - 50) + (66 - 60)) / 2)


def test_forgetting_counts_what_was_known_before_a_task_was_learned() -> None:
    """Our maximum is over all earlier rows, the published one over those since the task's own."""
    values = [[50.0, 90.0, 0.0], [50.0, 60.0, 0.0], [50.0, 60.0, 0.0]]
    matrix = AccuracyMatrix(TASKS, _rows(values))
    assert matrix.forgetting(METRIC).value == pytest.approx((0 + 30) / 2)
    assert matrix.published_forgetting(METRIC).value == pytest.approx(0)


def test_one_task_has_no_forgetting_rather_than_zero() -> None:
    matrix = AccuracyMatrix(TASKS, _rows(R[:1]))
    for summary in (
        matrix.forgetting(METRIC),
        matrix.published_forgetting(METRIC),
        matrix.forward_transfer(METRIC),
    ):
        assert math.isnan(summary.value)
        assert "two tasks" in (summary.reason or "")
    assert matrix.average(METRIC).value == 50.0


def test_average_of_an_unfinished_run_is_over_the_tasks_learned() -> None:
    """Unlearned tasks in the average would look like a collapse that is none."""
    assert AccuracyMatrix(TASKS, _rows(R[:2])).average(METRIC).value == pytest.approx((44 + 60) / 2)


def test_nothing_learned_is_undefined_with_a_reason() -> None:
    summary = AccuracyMatrix(TASKS, _rows([ZERO_SHOT], first=-1)).average(METRIC)
    assert math.isnan(summary.value)
    assert METRIC in (summary.reason or "")


def test_an_undefined_entry_passes_its_reason_on() -> None:
    """A mean over fewer tasks than it says would be another figure under the same name."""
    values = [[50.0, math.nan, 38.0], [44.0, 60.0, 45.0], [40.0, math.nan, 70.0]]
    matrix = AccuracyMatrix(TASKS, _rows(values))
    for summary in (matrix.average(METRIC), matrix.forgetting(METRIC)):
        assert math.isnan(summary.value)
        assert "'vehicle' after 'animal': too few images" in (summary.reason or "")
    assert "zero-shot: not evaluated" in (
        AccuracyMatrix(TASKS, _rows(R)).forward_transfer(METRIC).reason or ""
    )


def test_undefined_before_a_task_was_learned_does_not_matter_to_forgetting() -> None:
    values = [[50.0, math.nan, math.nan], [44.0, 60.0, math.nan], [40.0, 66.0, 70.0]]
    assert AccuracyMatrix(TASKS, _rows(values)).forgetting(METRIC).value == pytest.approx(2)


def test_a_missing_evaluation_since_a_task_was_learned_is_not_papered_over() -> None:
    rows = [row for row in _rows(R) if (row.trained_index, row.evaluated_index) != (0, 0)]
    assert "not evaluated" in (AccuracyMatrix(TASKS, rows).forgetting(METRIC).reason or "")


def test_values_hold_the_upper_triangle_and_zero_shot() -> None:
    matrix = _full()
    np.testing.assert_array_equal(matrix.values(METRIC), R)
    np.testing.assert_array_equal(matrix.zero_shot(METRIC), ZERO_SHOT)
    assert np.isnan(matrix.values("i2t_r1")).all()
    assert matrix.metrics == (METRIC,)


def test_table_survives_a_file_and_comes_back_equal(tmp_path: Path) -> None:
    values = [[50.0, math.nan, 38.0], *R[1:]]
    matrix = AccuracyMatrix(TASKS, _rows([ZERO_SHOT], first=-1) + _rows(values))
    pq.write_table(matrix_table(matrix.to_records()), tmp_path / "accuracy_matrix.parquet")
    table = pq.read_table(tmp_path / "accuracy_matrix.parquet")
    assert table.schema.equals(MATRIX_SCHEMA)
    assert table["trained_task"].to_pylist()[:4] == [None, None, None, "person"]
    again = AccuracyMatrix.from_records(matrix_records(table))
    assert again.tasks == matrix.tasks
    assert repr(again.rows) == repr(matrix.rows)  # NaN is not equal to itself


def test_rows_of_held_out_benchmarks_are_kept_apart(tmp_path: Path) -> None:
    """A benchmark that no task is of would count as a task that was forgotten, or gained."""
    held_out = AccuracyMatrix(TASKS, _rows([[70.0]], -1) + _rows([[68.0], [60.0]]), ["flickr30k"])
    table = matrix_table([*_full().to_records(), *held_out.to_records()])
    pq.write_table(table, tmp_path / "accuracy_matrix.parquet")
    records = matrix_records(pq.read_table(tmp_path / "accuracy_matrix.parquet"))
    assert AccuracyMatrix.from_records(records).rows == _full().rows
    again = AccuracyMatrix.from_records(records, held_out=True)
    assert (again.tasks, again.evaluated, again.rows) == (TASKS, ("flickr30k",), held_out.rows)
    assert again.values(METRIC)[:, 0].tolist()[:2] == [68.0, 60.0]
    assert again.retention(METRIC, 0).value == -10.0
    assert {record["held_out"] for record in records} == {None, "flickr30k"}


def test_a_table_of_an_earlier_version_is_read() -> None:
    """Runs of before held-out benchmarks would lose their report."""
    table = matrix_table(_full().to_records()).drop_columns(["held_out"])
    assert AccuracyMatrix.from_records(matrix_records(table)).rows == _full().rows


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
    table = matrix_table(_full().to_records())
    with pytest.raises(DataError, match="columns"):
        AccuracyMatrix.from_records(matrix_records(table.drop_columns(["reason"])))
    with pytest.raises(DataError, match="leaves out"):
        AccuracyMatrix.from_records(
            matrix_records(table.filter([j != 0 and i != 0 for i, j in _indices(table)]))
        )


def _indices(table: object) -> list[tuple[int, int]]:
    columns = table.to_pydict()  # type: ignore[attr-defined]
    return list(zip(columns["trained_index"], columns["evaluated_index"], strict=True))
