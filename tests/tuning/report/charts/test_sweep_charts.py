"""Which charts a sweep's page has, and why another one is missing."""

from typing import Any

from system.report.charts.chart_style import Chart
from system.report.charts.run_charts import Absent
from tests.tuning.report.sweep_rows import (
    FORKED_SWEEP,
    RANK_SWEEP,
    RECALL,
    compared,
    searched_row,
    trial_row,
)
from tuning.report.charts.sweep_charts import build_charts
from tuning.search.sweep_config import SweepMetric


def charts(rows: list[dict[str, Any]]) -> dict[str, Chart | Absent]:
    sections = build_charts(compared(rows), rows, RECALL)
    return {chart.key: chart for section in sections for chart in section.charts}


def reason(chart: Chart | Absent) -> str:
    assert isinstance(chart, Absent)
    return chart.reason


def test_a_search_over_two_keys_has_all_charts() -> None:
    found = charts(RANK_SWEEP)
    assert list(found) == ["curves", "parallel", "values", "importance", "parameters", "seconds"]
    assert all(isinstance(chart, Chart) for chart in found.values())


def test_few_trial_configs_have_no_importance() -> None:
    assert "8 trial configs" in reason(charts(RANK_SWEEP[:4])["importance"])


def test_one_key_has_no_importance() -> None:
    rows = [searched_row(n, {"rank": rank}, *[2.0 * rank] * 3) for n, rank in enumerate([1, 2] * 6)]
    assert "only one key" in reason(charts(rows)["importance"])


def test_equal_values_have_no_axis() -> None:
    rows = [searched_row(n, {"rank": 1}, 2.0, 2.0, 2.0) for n in range(2)]
    assert "no two trial configs with different values" in reason(charts(rows)["values"])


def test_a_sweep_over_methods_has_no_keys() -> None:
    methods = [trial_row(name, 0, [1.0, 2.0, 3.0], "finished") for name in ("a", "b")]
    assert set(charts(methods)) == {"curves", "parameters", "seconds"}


def test_a_population_shows_its_schedules_and_compares_values_without_forks() -> None:
    """In its first tasks, a fork had the values of its parent."""
    found = charts(FORKED_SWEEP)
    assert "schedules" in found
    values = found["values"]
    assert isinstance(values, Chart)
    points = [trace for trace in values.content["data"] if trace["mode"] == "markers"]  # type: ignore[attr-defined]
    assert points[0]["x"] == [0.1, 1.0]


def test_a_models_sweep_has_no_stream() -> None:
    rows = [searched_row(n, {"rank": n + 1}, 0.5 + n / 10) for n in range(3)]
    rows = [row | {"status": "finished", "figure": row["figure_by_task"][0]} for row in rows]
    model = SweepMetric("model", "held_out_iou", "", 1)
    sections = build_charts(compared(rows), rows, model)
    assert [section.key for section in sections] == ["keys", "costs"]
