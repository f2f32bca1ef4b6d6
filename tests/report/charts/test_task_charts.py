"""Bars by task that a reader could misread."""

from dataclasses import replace

from system.report.metrics_view import MetricsView
from system.report.run_data import RunData
from tests.report.charts.drawn_chart import content


def test_missing_true_task_metrics_draw_no_empty_series(data: RunData) -> None:
    """Else the legend promises bars that are not there."""
    metrics = MetricsView({k: v for k, v in data.metrics.content.items() if k != "oracle"})
    names = [trace["name"] for trace in content(replace(data, metrics=metrics), "methods")["data"]]
    assert names == ["zero-shot", "this run, task inferred"] * 2
