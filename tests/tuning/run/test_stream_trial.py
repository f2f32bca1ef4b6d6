"""The score of a trial that is a stream: the average recall over the tasks learned so far."""

from collections.abc import Sequence
from typing import Any

import pytest

from system.config.compose import compose
from system.results.accuracy_matrix import AccuracyMatrix, row_of
from system.results.committed_rows import CommittedRows
from tuning.run.stream_trial import AveragesSoFar, StreamTrials, TaskReports, averages_so_far
from tuning.run.trial_kind import SCORE, TrialRecord


def row(metric: str, trained: int, evaluated: int, value: float | None) -> dict[str, Any]:
    return {
        "metric": metric,
        "trained_index": trained,
        "evaluated_index": evaluated,
        "value": value,
        "queries": 10,
    }


def scores(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[float | None]:
    """Of two tasks: while they are learned, and from the matrix in the end; both are the same."""
    so_far = AveragesSoFar(metrics)
    packer = CommittedRows()
    for task in range(2):
        mine = [row_of(row) for row in rows if max(row["trained_index"], 0) == task]
        so_far.add({"rows": packer.pack(mine)})
    matrix = AccuracyMatrix(("ape", "bee"), map(row_of, rows))
    assert averages_so_far(matrix, metrics) == so_far.scores
    return so_far.scores


def test_the_average_is_over_metrics_and_the_tasks_so_far() -> None:
    rows = [
        row("t2i_r1", -1, 0, 99.0),  # zero-shot
        row("t2i_r1", 0, 0, 10.0),
        row("i2t_r1", 0, 0, 20.0),
        row("t2i_r1", 0, 1, 99.0),  # a task that is not learned yet
        row("t2i_r1", 1, 0, 8.0),
        row("i2t_r1", 1, 0, 16.0),
        row("t2i_r1", 1, 1, 12.0),
        row("i2t_r1", 1, 1, 24.0),
        row("t2i_r5", 1, 1, 99.0),
    ]
    assert scores(rows, ("t2i_r1", "i2t_r1")) == [15.0, 15.0]
    assert scores(rows, ("t2i_r1",)) == [10.0, 10.0]


def test_an_undefined_entry_makes_the_score_undefined_and_not_smaller() -> None:
    rows = [row("t2i_r1", 0, 0, 10.0), row("t2i_r1", 1, 0, None), row("t2i_r1", 1, 1, 5.0)]
    assert scores(rows, ("t2i_r1",)) == [10.0, None]


def test_what_was_not_evaluated_has_no_score() -> None:
    """Joint training is evaluated after the last task only."""
    rows = [row("t2i_r1", 1, 0, 30.0), row("t2i_r1", 1, 1, 50.0)]
    assert scores(rows, ("t2i_r1",)) == [None, 40.0]


def test_a_task_without_a_query_does_not_take_the_score_away() -> None:
    """RefCOCO's testA has none of eleven tasks; the pruner needs the score of the others."""
    nothing = {"queries": 0}
    rows = [
        row("rec_r1", 0, 0, None) | nothing,
        row("rec_r1", 1, 0, None) | nothing,
        row("rec_r1", 1, 1, 40.0) | {"queries": 7},
    ]
    assert scores(rows, ("rec_r1",)) == [None, 40.0]


class Commits(list[dict[str, Any]]):
    """A stream's commits that count how often each is looked at."""

    looked_at = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.looked_at += len(found)
        return found

    def __iter__(self) -> Any:
        self.looked_at += len(self)
        return super().__iter__()


class Told:
    """The reports of a trial."""

    def __init__(self) -> None:
        self.scores: list[float] = []

    def put(self, report: dict[str, Any]) -> None:
        self.scores.append(report[SCORE])


def test_each_commit_of_a_trial_is_unpacked_once() -> None:
    """All of them were after each task: the square of the tasks, of a million rows each."""
    packer, told, commits = CommittedRows(), Told(), Commits()
    reports = TaskReports(("t2i_r1",), 40, told)  # type: ignore[arg-type]
    for task in range(40):
        rows = [row("t2i_r1", task, j, float(task)) for j in range(40)]
        commits.append({"rows": packer.pack(map(row_of, rows))})
        reports.learned(commits)
        assert told.scores == [float(t) for t in range(min(task + 1, 39))], "the last waits"
    reports.learned(commits, done=True)
    assert told.scores[-1] == 39.0
    assert commits.looked_at == 40


@pytest.mark.parametrize(
    ("overrides", "sharing"),
    [
        (["method=lpi"], "own"),
        (["method=lpi", "method.sharing=shared"], "shared"),
        (["method=zero_shot"], "frozen"),
    ],
)
def test_a_trial_tells_what_its_tasks_share(overrides: list[str], sharing: str) -> None:
    """Also one that has not finished: who reads the table knows which game the row plays."""
    columns = StreamTrials().columns(compose(overrides), TrialRecord([], None, None))
    assert columns["sharing"] == sharing
