"""The charts of what was searched: what a reader would conclude from them is so."""

import json
import math
from typing import Any

import numpy as np
import pytest

from system.report.charts.chart_style import Chart
from system.report.charts.run_charts import Absent
from tests.tuning.report.test_sweep_page import trial as finished_trial
from tuning.report.charts.cost_charts import pareto_front
from tuning.report.charts.sweep_charts import build_charts
from tuning.report.comparison import compare
from tuning.report.measure import Measure

MEASURE = Measure("stream", "average recall", "%", 3)


def trial(number: int, values: dict[str, Any], *figures: float) -> dict[str, Any]:
    status = "finished" if len(figures) == MEASURE.tasks else "stopped"
    row = finished_trial(f"lpi-{number:03d}", 0, list(figures), status)
    return row | {"values": json.dumps(values), "trainable_parameters": 100 * values["rank"]}


def charts(trials: list[dict[str, Any]]) -> dict[str, Chart | Absent]:
    sections = build_charts(compare(trials, seeds=1), trials, MEASURE)
    return {chart.key: chart for section in sections for chart in section.charts}


def traces(chart: Chart | Absent) -> list[dict[str, Any]]:
    assert isinstance(chart, Chart)
    data = chart.content["data"]
    assert isinstance(data, list)
    return data


#: rank decides, width does nothing, and one setting has no width
RANKS = [1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8]
TRIALS = [
    trial(n, {"rank": rank, "width": n % 3}, *([rank * 2.0] * (1 if n == 5 else 3)))
    for n, rank in enumerate(RANKS)
]
TRIALS[0] = trial(0, {"rank": 1}, 2.0, 2.0, 2.0)


def test_the_key_that_decides_is_the_important_one() -> None:
    (bars,) = traces(charts(TRIALS)["importance"])
    assert bars["y"][-1] == "rank"  # on top
    drop = dict(zip(bars["y"], bars["x"], strict=True))
    assert drop["rank"] > 10 * max(abs(drop["width"]), 0.01)


def test_chance_is_called_chance() -> None:
    """Twelve trials always have an order of importance, whether there is one or not."""
    rng = np.random.default_rng(0)
    noise = [
        trial(n, {"rank": rank, "width": n % 3}, *[float(rng.uniform(10, 20))] * 3)
        for n, rank in enumerate(RANKS)
    ]
    chart = charts(noise)["importance"]
    assert isinstance(chart, Chart)
    assert "this order is chance" in chart.caption


def test_few_settings_have_no_importance() -> None:
    chart = charts(TRIALS[:4])["importance"]
    assert isinstance(chart, Absent)
    assert "8 settings" in chart.reason


def test_each_key_has_a_panel_with_every_setting_that_has_it() -> None:
    chart = charts(TRIALS)["values"]
    points = [trace for trace in traces(chart) if trace["mode"] == "markers"]
    by_axis = {axis: [t for t in points if t.get("xaxis", "x") == axis] for axis in ("x", "x2")}
    early, late = by_axis["x"]
    assert sorted(early["x"]) == sorted(RANKS)
    assert [y == 2 * x for x, y in zip(early["x"], early["y"], strict=True)]
    assert len(late["x"]) == len(RANKS) - 1  # one was stopped
    assert early["marker"]["symbol"].count("x") == 1
    assert len(by_axis["x2"][0]["x"]) == len(RANKS) - 1  # one has no width


def test_early_and_late_figures_are_not_mixed_in_one_view() -> None:
    """Of the tasks so far: a figure after one task is no figure after three."""
    chart = charts(TRIALS)["values"]
    assert isinstance(chart, Chart)
    assert [choice.label for choice in chart.choices] == [
        "after 1 of 3 tasks",
        "at the end, those that finished",
    ]
    first, second = (np.array(choice.visible) for choice in chart.choices)
    assert (first ^ second).all()
    shown = [trace["visible"] for trace in traces(chart)]
    assert shown == first.tolist()


def test_parallel_lines_pass_through_the_values() -> None:
    lines = {trace["name"]: trace for trace in traces(charts(TRIALS)["parallel"])}
    assert len(lines) == len(TRIALS)
    worst, best = lines["lpi-000"], lines["lpi-011"]
    assert worst["y"] == [0.0, None, 0.0]  # rank, no width, figure
    assert best["y"] == [1.0, 1.0, 1.0]
    assert lines["lpi-005"]["line"]["dash"] == "dot"


def test_a_sweep_over_methods_has_no_keys_and_one_key_no_importance() -> None:
    methods = [finished_trial(name, 0, [1.0, 2.0, 3.0], "finished") for name in ("a", "b")]
    assert set(charts(methods)) == {"curves", "parameters", "seconds"}
    alone = [trial(n, {"rank": rank}, *[2.0 * rank] * 3) for n, rank in enumerate([1, 2, 4] * 3)]
    chart = charts(alone)["importance"]
    assert isinstance(chart, Absent)
    assert "only one key" in chart.reason


def test_a_models_sweep_has_no_stream() -> None:
    rows = [trial(n, {"rank": n + 1}, 0.5 + n / 10) for n in range(3)]
    rows = [row | {"status": "finished", "figure": row["figure_by_task"][0]} for row in rows]
    model = Measure("model", "held_out_iou", "", 1)
    sections = build_charts(compare(rows, seeds=1), rows, model)
    assert [section.key for section in sections] == ["keys", "costs"]


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
    (front, *_) = traces(charts(TRIALS)["parameters"])
    assert front["x"] == [101, 201, 401, 801]
    assert front["y"] == [2.0, 4.0, 8.0, 16.0]
    assert not any(math.isnan(value) for value in front["y"])
