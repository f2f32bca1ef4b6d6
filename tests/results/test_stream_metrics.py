"""Summaries of a stream: the papers' formulas, and what cannot be summed up has a reason."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow
from system.results.stream_metrics import (
    AVERAGE,
    BACKWARD_TRANSFER,
    COMBINED,
    FORGETTING,
    FORWARD_TRANSFER,
    PUBLISHED_AVERAGE,
    PUBLISHED_FORGETTING,
    R_MEAN,
    RSUM,
    STREAM_AVERAGE,
    STREAM_METRICS,
    TRANSFER,
    CombinedMetric,
    Summary,
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


def _matrix(values: list[list[float]], before: list[float] | None = None) -> AccuracyMatrix:
    rows = _rows([ZERO_SHOT], first=-1) + _rows(values)
    return AccuracyMatrix(TASKS, rows, before=_rows([before], first=-1) if before else None)


def test_summaries_follow_their_formulas() -> None:
    matrix = _matrix(R)
    published = ((50 + 44 + 40) / 3 + (60 + 66) / 2 + 70) / 3
    for metric, expected in (
        (AVERAGE, (40 + 66 + 70) / 3),
        (STREAM_AVERAGE, (50 + 35 + 38 + 44 + 60 + 45 + 40 + 66 + 70) / 9),
        (TRANSFER, (35 + (38 + 45) / 2) / 2),  # each task alike, not each entry
        (FORGETTING, ((50 - 40) + (60 - 66)) / 2),
        (BACKWARD_TRANSFER, ((40 - 50) + (66 - 60)) / 2),
        (FORWARD_TRANSFER, ((35 - 30) + (45 - 40)) / 2),
        (PUBLISHED_AVERAGE, published),
        (PUBLISHED_FORGETTING, ((40 - 50) + (66 - 60)) / 2),
    ):
        assert metric.of(matrix, METRIC).value == pytest.approx(expected), metric.name


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_summaries_equal_the_papers_own_loops(tasks: int, seed: int) -> None:
    """Written as GEM and ZSCL write them, over a matrix counted from 1."""
    generator = np.random.default_rng(seed)
    values, zero_shot = generator.uniform(0, 100, (tasks, tasks)), generator.uniform(0, 100, tasks)
    rows = _rows([zero_shot.tolist()], first=-1) + _rows(values.tolist())
    matrix = AccuracyMatrix([f"task {i}" for i in range(tasks)], rows)
    r = {(i + 1, j + 1): values[i, j] for i in range(tasks) for j in range(tasks)}
    bwt = sum(r[tasks, i] - r[i, i] for i in range(1, tasks)) / (tasks - 1)
    fwt = sum(r[i - 1, i] - zero_shot[i - 1] for i in range(2, tasks + 1)) / (tasks - 1)
    transfer = 0.0
    for j in range(2, tasks + 1):
        transfer += sum(r[i, j] for i in range(1, j)) / (j - 1) / (tasks - 1)
    assert BACKWARD_TRANSFER.of(matrix, METRIC).value == pytest.approx(bwt)
    assert FORWARD_TRANSFER.of(matrix, METRIC).value == pytest.approx(fwt)
    assert TRANSFER.of(matrix, METRIC).value == pytest.approx(transfer)
    assert STREAM_AVERAGE.of(matrix, METRIC).value == pytest.approx(sum(r.values()) / tasks**2)


def test_forgetting_counts_what_was_known_before_a_task_was_learned() -> None:
    """Our maximum is over all earlier rows, the published one over those since the task's own."""
    matrix = _matrix([[50.0, 90.0, 0.0], [50.0, 60.0, 0.0], [50.0, 60.0, 0.0]])
    assert FORGETTING.of(matrix, METRIC).value == pytest.approx((0 + 30) / 2)
    assert PUBLISHED_FORGETTING.of(matrix, METRIC).value == pytest.approx(0)


def test_growing_galleries_are_not_compared_with_smaller_ones_of_before() -> None:
    """A task not learned yet is easy to find among few others: that is neither gain nor loss."""
    values = [[50.0, 90.0, 95.0], [50.0, 60.0, 90.0], [50.0, 60.0, 70.0]]
    matrix = _matrix(values, before=[99.0, 88.0, 85.0])
    assert FORGETTING.of(matrix, METRIC).value == pytest.approx(0)
    assert FORWARD_TRANSFER.of(matrix, METRIC).value == pytest.approx(((90 - 88) + (90 - 85)) / 2)
    unknown = AccuracyMatrix(TASKS, _rows([ZERO_SHOT], first=-1) + _rows(values), before=())
    assert "gallery before it was learned: not evaluated" in (
        FORWARD_TRANSFER.of(unknown.with_rows([]), METRIC).reason or ""
    )


def test_one_task_has_no_forgetting_rather_than_zero() -> None:
    matrix = _matrix(R[:1])
    for metric in STREAM_METRICS:
        summary = metric.of(matrix, METRIC)
        if metric in (AVERAGE, STREAM_AVERAGE, PUBLISHED_AVERAGE):
            assert summary.value == 50.0
        else:
            assert math.isnan(summary.value)
            assert "two tasks" in (summary.reason or "")


def test_an_unfinished_run_is_summed_up_over_the_tasks_learned() -> None:
    """Unlearned tasks in the average would look like a collapse that is none."""
    assert AVERAGE.of(_matrix(R[:2]), METRIC).value == pytest.approx((44 + 60) / 2)
    assert STREAM_AVERAGE.of(_matrix(R[:2]), METRIC).value == pytest.approx((50 + 35 + 44 + 60) / 4)
    assert TRANSFER.of(_matrix(R[:2]), METRIC).value == 35.0


def test_nothing_learned_is_undefined_with_a_reason() -> None:
    for metric in STREAM_METRICS:
        summary = metric.of(AccuracyMatrix(TASKS, _rows([ZERO_SHOT], first=-1)), METRIC)
        assert math.isnan(summary.value)
        assert METRIC in (summary.reason or "")


def test_an_undefined_entry_passes_its_reason_on() -> None:
    """A mean over fewer tasks than it says would be another value under the same name."""
    matrix = _matrix([[50.0, math.nan, 38.0], [44.0, 60.0, 45.0], [40.0, math.nan, 70.0]])
    for metric in (AVERAGE, FORGETTING, BACKWARD_TRANSFER):
        summary = metric.of(matrix, METRIC)
        assert math.isnan(summary.value)
        assert "'vehicle' after 'animal': too few images" in (summary.reason or "")
    assert "'vehicle' after 'person'" in (TRANSFER.of(matrix, METRIC).reason or "")
    summary = FORWARD_TRANSFER.of(AccuracyMatrix(TASKS, _rows(R)), METRIC)
    assert "zero-shot: not evaluated" in (summary.reason or "")


def test_a_task_without_a_query_is_left_out_of_every_mean() -> None:
    """RefCOCO's testA has one of twelve tasks: LPI's released code skips the others too."""
    rows = [
        replace(row, value=math.nan, queries=0, reason="no expression")
        if row.evaluated_index == 1
        else row
        for row in _rows([ZERO_SHOT], first=-1) + _rows(R)
    ]
    matrix = AccuracyMatrix(TASKS, rows)
    for metric, expected in (
        (AVERAGE, (40 + 70) / 2),
        (STREAM_AVERAGE, (50 + 38 + 44 + 45 + 40 + 70) / 6),
        (TRANSFER, (38 + 45) / 2),
        (FORGETTING, 50 - 40),
        (BACKWARD_TRANSFER, 40 - 50),
        (FORWARD_TRANSFER, 45 - 40),
        (PUBLISHED_AVERAGE, ((50 + 44 + 40) / 3 + 70) / 2),
        (PUBLISHED_FORGETTING, 40 - 50),
    ):
        assert metric.of(matrix, METRIC).value == pytest.approx(expected), metric.name
    nobody = AccuracyMatrix(TASKS, [replace(row, queries=0, value=math.nan) for row in rows])
    found = AVERAGE.of(nobody, METRIC)
    assert math.isnan(found.value)
    assert found.reason == "t2i_r1: no task has a query in the split"


def test_tasks_that_were_not_evaluated_before_their_turn_have_no_transfer() -> None:
    """As in a live stream: the entries above the diagonal are not there."""
    lower = [row for row in _rows(R) if row.evaluated_index <= row.trained_index]
    matrix = AccuracyMatrix(TASKS, lower)
    for metric in (TRANSFER, STREAM_AVERAGE, FORWARD_TRANSFER):
        assert "'vehicle' after 'person': not evaluated" in (metric.of(matrix, METRIC).reason or "")
    assert BACKWARD_TRANSFER.of(matrix, METRIC).value == pytest.approx(-2)


def test_undefined_before_a_task_was_learned_does_not_matter_to_forgetting() -> None:
    matrix = _matrix([[50.0, math.nan, math.nan], [44.0, 60.0, math.nan], [40.0, 66.0, 70.0]])
    assert FORGETTING.of(matrix, METRIC).value == pytest.approx(2)


def test_a_missing_evaluation_since_a_task_was_learned_is_not_papered_over() -> None:
    rows = [row for row in _rows(R) if (row.trained_index, row.evaluated_index) != (0, 0)]
    summary = FORGETTING.of(AccuracyMatrix(TASKS, rows), METRIC)
    assert "not evaluated" in (summary.reason or "")


def test_rsum_and_r_mean_are_of_the_six_recalls() -> None:
    six = {recall: Summary(10.0 * n) for n, recall in enumerate(CombinedMetric.RECALLS)}
    assert RSUM.of(six | {"t2i_map10": Summary(99.0)}) == Summary(150.0)
    assert R_MEAN.of(six) == Summary(25.0)
    undefined = RSUM.of(six | {"i2t_r10": Summary(math.nan, "a small gallery")})
    assert math.isnan(undefined.value)
    assert undefined.reason == "a small gallery"


def test_each_metric_has_a_name_a_formula_and_a_source_of_its_own() -> None:
    """They are keys of metrics.json and headings of tables."""
    every = (*STREAM_METRICS, *COMBINED)
    for of in (
        [metric.name for metric in every],
        [metric.label for metric in every],
        [metric.formula for metric in every],
    ):
        assert len(set(of)) == len(every)
    assert all(metric.reference for metric in every)
