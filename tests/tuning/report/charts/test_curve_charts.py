"""Learning curves: a reader sees means over seeds, who ended early, and where forks begin."""

import itertools

from tests.tuning.report.charts.chart_traces import named, traces
from tests.tuning.report.sweep_rows import FORKED_SWEEP, RECALL, compared, trial_row
from tuning.report.charts.curve_charts import MOST_COLORED, curves_chart, style_of

TWO_SEEDS = [
    trial_row("lpi", 0, [10.0, 20.0, 30.0], "finished"),
    trial_row("lpi", 1, [12.0, 22.0, 34.0], "finished"),
    trial_row("joint", 0, [None, None, 40.0], "finished"),
    trial_row("joint", 1, [None, None, 42.0], "finished"),
    trial_row("<i>weak</i>", 0, [4.0], "stopped"),
    trial_row("<i>weak</i>", 1, [], "stopped"),
    trial_row("broken", 0, [], "failed"),
]


def test_curves_are_means_over_seeds_and_end_where_the_trials_ended() -> None:
    chart = curves_chart(compared(TWO_SEEDS, seeds=2), TWO_SEEDS, RECALL)
    curves = {name: (trace["x"], trace["y"]) for name, trace in named(chart).items()}
    assert curves["lpi"] == ([1, 2, 3], [11.0, 21.0, 32.0])
    assert curves["joint"] == ([3], [41.0])  # evaluated at the end only
    assert curves["&lt;i&gt;weak&lt;/i&gt;"] == ([1], [4.0])
    assert "broken" not in curves


def test_the_shaded_area_is_from_the_lowest_to_the_highest_seed() -> None:
    chart = curves_chart(compared(TWO_SEEDS, seeds=2), TWO_SEEDS, RECALL)
    area = next(t for t in traces(chart) if t.get("fill") == "toself" and t["legendgroup"] == "lpi")
    points = set(zip(area["x"], area["y"], strict=True))
    assert points == {(1, 10.0), (1, 12.0), (2, 20.0), (2, 22.0), (3, 30.0), (3, 34.0)}


def test_a_cross_marks_who_did_not_finish() -> None:
    chart = curves_chart(compared(TWO_SEEDS, seeds=2), TWO_SEEDS, RECALL)
    (cross,) = [t for t in traces(chart) if t.get("marker", {}).get("symbol") == "x"]
    assert (cross["x"], cross["y"]) == ([1], [4.0])
    assert "2 stopped" in cross["hovertemplate"]


def test_a_fork_starts_on_its_parents_line() -> None:
    """Inherited tasks are the parent's line: drawn twice, they would look learned twice."""
    chart = curves_chart(compared(FORKED_SWEEP), FORKED_SWEEP, RECALL)
    assert {name: trace["x"] for name, trace in named(chart).items()} == {
        "lpi-000": [1, 2, 3],
        "lpi-001": [1, 2],
        "lpi-002": [2, 3],
    }
    assert "fork" in chart.caption
    assert "fork" not in curves_chart(compared(TWO_SEEDS, seeds=2), TWO_SEEDS, RECALL).caption


def test_neighbouring_lines_can_be_told_apart_in_grey_print() -> None:
    styles = [style_of(place) for place in range(MOST_COLORED)]
    assert len({(style.color, style.dash) for style in styles}) == MOST_COLORED
    for style, after in itertools.pairwise(styles):
        assert style.marker != after.marker
    assert "x" not in {style.marker for style in styles}  # it marks who did not finish
