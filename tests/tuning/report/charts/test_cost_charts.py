"""Score against cost: the Pareto front, and points where a reader looks for them."""

import pytest

from tests.tuning.report.charts.chart_traces import named, traces
from tests.tuning.report.sweep_rows import RANK_SWEEP, RECALL, compared, trial_row
from tuning.report.charts.cost_charts import (
    MOST_NAMED,
    PARAMETERS,
    SECONDS,
    cost_chart,
    parameters_front,
    pareto_front,
)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 5), (2, 4), (3, 6)], [0, 2]),
        ([(3, 6), (1, 5), (2, 7)], [1, 2]),
        ([(1, 5), (1, 6), (2, 6)], [1]),
        ([(1, 5), (1, 5)], [0]),
        ([], []),
    ],
)
def test_the_pareto_front(points: list[tuple[float, float]], front: list[int]) -> None:
    assert pareto_front(points) == front


def test_the_front_is_the_line_in_the_chart() -> None:
    (front, *points) = traces(cost_chart(compared(RANK_SWEEP).rows, PARAMETERS, RECALL))
    assert front["x"] == [101, 201, 401, 801]
    assert front["y"] == [2.0, 4.0, 8.0, 16.0]
    assert len(points) == len(RANK_SWEEP) - 1  # one was stopped: it has no final score
    assert len(points) > MOST_NAMED
    labelled = [point for point in points if "text" in point["mode"]]
    assert {point["x"][0] for point in labelled} == set(front["x"])  # the front alone, once each
    assert len(labelled) == len(front["x"])


def test_no_parameters_have_a_place_on_a_log_axis() -> None:
    rows = [trial_row("zero_shot", 0, [5.0] * 3, "finished")]
    assert named(cost_chart(compared(rows).rows, PARAMETERS, RECALL))["zero_shot"]["x"] == [1]


def test_seconds_are_means_over_seeds() -> None:
    rows = [trial_row("lpi", seed, [5.0] * 3, "finished", seconds=2.0 + seed) for seed in (0, 2)]
    point = named(cost_chart(compared(rows, seeds=2).rows, SECONDS, RECALL))["lpi"]
    assert (point["x"], point["error_y"]["array"]) == ([3.0], [0.0])


def test_without_a_finished_trial_config_there_is_no_chart() -> None:
    rows = [trial_row("lpi", 0, [5.0], "stopped")]
    assert cost_chart(compared(rows).rows, PARAMETERS, RECALL) is None
    assert parameters_front(compared(rows).rows) == []
