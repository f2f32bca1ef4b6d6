"""The score against each key: every trial config is a point at its own value."""

import numpy as np

from system.report.charts.chart_style import Chart
from tests.tuning.report.charts.chart_traces import traces
from tests.tuning.report.sweep_rows import RANK_SWEEP, RANKS, RECALL, compared
from tuning.report.charts.value_charts import values_chart
from tuning.report.comparison import common_scores
from tuning.report.parameter_axes import parameter_axes


def chart() -> Chart:
    rows = compared(RANK_SWEEP).rows
    axes = parameter_axes([row.values for row in rows])
    return values_chart(rows, axes, common_scores(RANK_SWEEP), RECALL)


def test_each_key_has_a_panel_with_every_trial_config_that_has_it() -> None:
    points = [trace for trace in traces(chart()) if trace["mode"] == "markers"]
    by_axis = {axis: [t for t in points if t.get("xaxis", "x") == axis] for axis in ("x", "x2")}
    early, late = by_axis["x"]
    assert sorted(early["x"]) == sorted(RANKS)
    assert all(y == 2 * x for x, y in zip(early["x"], early["y"], strict=True))
    assert len(late["x"]) == len(RANKS) - 1  # one was stopped
    assert early["marker"]["symbol"].count("x") == 1
    assert len(by_axis["x2"][0]["x"]) == len(RANKS) - 1  # one has no width


def test_the_line_joins_the_means_of_repeated_values() -> None:
    line = next(trace for trace in traces(chart()) if trace["mode"] == "lines")
    assert (line["x"], line["y"]) == ([1, 2, 4, 8], [2.0, 4.0, 8.0, 16.0])


def test_early_and_late_scores_are_not_mixed_in_one_view() -> None:
    """Averages over the tasks so far: after one task they are not comparable to after three."""
    made = chart()
    assert [choice.label for choice in made.choices] == [
        "after 1 of 3 tasks",
        "at the end, those that finished",
    ]
    first, second = (np.array(choice.visible) for choice in made.choices)
    assert (first ^ second).all()
    assert [trace["visible"] for trace in traces(made)] == first.tolist()
