"""The score of a trial that is a stream: the average recall over the tasks learned so far."""

from typing import Any

import pytest

from system.config.compose import compose
from tuning.run.stream_trial import StreamTrials, recall_so_far
from tuning.run.trial_kind import TrialRecord


def row(metric: str, trained: int, evaluated: int, value: float | None) -> dict[str, Any]:
    return {
        "metric": metric,
        "trained_index": trained,
        "evaluated_index": evaluated,
        "value": value,
    }


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
    assert recall_so_far(rows, ("t2i_r1", "i2t_r1"), 2) == [15.0, 15.0]
    assert recall_so_far(rows, ("t2i_r1",), 2) == [10.0, 10.0]


def test_an_undefined_entry_makes_the_score_undefined_and_not_smaller() -> None:
    rows = [row("t2i_r1", 0, 0, 10.0), row("t2i_r1", 1, 0, None), row("t2i_r1", 1, 1, 5.0)]
    assert recall_so_far(rows, ("t2i_r1",), 2) == [10.0, None]


def test_what_was_not_evaluated_has_no_score() -> None:
    """Joint training is evaluated after the last task only."""
    rows = [row("t2i_r1", 1, 0, 30.0), row("t2i_r1", 1, 1, 50.0)]
    assert recall_so_far(rows, ("t2i_r1",), 2) == [None, 40.0]


def test_a_task_without_a_query_does_not_take_the_score_away() -> None:
    """RefCOCO's testA has none of eleven tasks; the pruner needs the score of the others."""
    nothing = {"queries": 0}
    rows = [
        row("rec_r1", 0, 0, None) | nothing,
        row("rec_r1", 1, 0, None) | nothing,
        row("rec_r1", 1, 1, 40.0) | {"queries": 7},
    ]
    assert recall_so_far(rows, ("rec_r1",), 2) == [None, 40.0]


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
