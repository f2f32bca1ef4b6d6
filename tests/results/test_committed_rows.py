"""Packed rows: what comes back is what was written, and a task costs what is new of it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system.errors import DataError
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow, plain_row
from system.results.committed_rows import (
    CommittedRows,
    packed_numbers,
    unpacked,
    unpacked_bools,
    unpacked_floats,
)

METRICS = ("t2i_r1", "t2i_r5", "i2t_r1", "route_image")
Rows = list[MatrixRow]

VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 100.0, 200 / 3]), st.floats(0, 100), st.just(math.nan)
)


@st.composite
def commits(draw: st.DrawFn) -> list[Rows]:
    """What a stream commits: tasks may come, go, and change in value, queries or reason."""
    found: list[Rows] = []
    for trained in range(draw(st.integers(1, 4))):
        rows = draw(st.sampled_from([found[-1], []])) if found else []
        rows = [replace(row, trained_index=trained) for row in rows if row.trained_index >= 0]
        places = [(row.metric, row.evaluated_index) for row in rows]
        for metric in METRICS:
            for task in draw(st.sets(st.integers(0, 5))):
                value = draw(VALUES)
                reason = (
                    draw(st.sampled_from(["no query", "few", None])) if value != value else None
                )
                row = MatrixRow(trained, task, metric, value, draw(st.integers(0, 9)), reason)
                if (metric, task) in places:
                    rows[places.index((metric, task))] = row
                else:
                    rows.append(row)
        if draw(st.booleans()):
            rows.append(MatrixRow(-1, trained, "t2i_r1", draw(VALUES), 3))
        found.append(rows)
    return found


def matrix_of(stream: list[Rows]) -> AccuracyMatrix:
    return AccuracyMatrix("abcdef", [row for rows in stream for row in rows])


@settings(deadline=None)
@given(commits())
def test_rows_come_back_to_the_bit(stream: list[Rows]) -> None:
    """A resumed worker, the report and the loggers know the values from there alone."""
    rows = CommittedRows()
    packed = [json.loads(json.dumps(rows.pack(commit))) for commit in stream]
    again = AccuracyMatrix("abcdef", blocks=unpacked(packed))
    assert sorted(map(repr, again.rows)) == sorted(map(repr, matrix_of(stream).rows))


@settings(deadline=None)
@given(commits(), st.integers(0, 3))
def test_a_run_that_an_earlier_version_began_goes_on(stream: list[Rows], old: int) -> None:
    """Its first commits hold one mapping an entry; the next ones are changes to them."""
    before = [[plain_row(row) for row in commit] for commit in stream[:old]]
    rows = CommittedRows()
    for commit in before:
        rows.unpack(commit)
    packed = [*before, *(rows.pack(commit) for commit in stream[old:])]
    again = AccuracyMatrix("abcdef", blocks=unpacked(packed))
    assert sorted(map(repr, again.rows)) == sorted(map(repr, matrix_of(stream).rows))


def whole_rows(trained: int, tasks: int, changed: int = 0) -> Rows:
    """All tasks after one of them, of which the last `changed` differ from before."""
    return [
        MatrixRow(trained, j, metric, 50.0 + (trained if j >= tasks - changed else 0), 8)
        for metric in METRICS
        for j in range(tasks)
    ]


def test_a_task_that_changes_nothing_costs_the_same_among_many() -> None:
    """It was a row per task and metric: with 1,000 tasks a megabyte each."""
    sizes = []
    for tasks in (10, 1000):
        rows = CommittedRows()
        rows.pack(whole_rows(0, tasks))
        sizes.append(len(json.dumps(rows.pack(whole_rows(1, tasks, changed=3)))))
    assert abs(sizes[1] - sizes[0]) < 40  # of their numbers' digits
    assert sizes[1] < 500


@pytest.mark.parametrize(
    "damage",
    [
        {"data": "AAAA"},
        {"data": None},
        {"metrics": {"t2i_r1": [0, 10**12]}},
        {"metrics": {"t2i_r1": [0, 7]}},
        {"metrics": {"t2i_r1": [1, 3]}},  # changes to nothing
        {"metrics": {"t2i_r1": [0, -3]}},
        {"reasons": []},
    ],
)
def test_broken_rows_are_refused(damage: dict[str, object]) -> None:
    """They are read from a run's files, which may be damaged or someone else's."""
    good = [MatrixRow(0, j, "t2i_r1", math.nan, 0, "no query") for j in range(3)]
    (entry,) = CommittedRows().pack(good)
    with pytest.raises(DataError, match="broken"):
        CommittedRows().unpack([{**entry, **damage}])


def test_similarities_are_packed_to_the_bit() -> None:
    floats = np.array([1.0, 1 / 3, -0.1, 0.0], np.float32)
    assert unpacked_floats(packed_numbers(floats)).tobytes() == floats.tobytes()
    bools = np.arange(11) % 3 == 0
    assert unpacked_bools(packed_numbers(bools), 11).tolist() == bools.tolist()
    assert unpacked_bools(packed_numbers(bools), 10).tolist() == bools[:10].tolist()
