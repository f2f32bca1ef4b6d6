"""Data of single charts that a reader could misread."""

from dataclasses import replace
from pathlib import Path

from system.report.charts.chart_style import Chart
from system.report.charts.run_charts import Absent, build_charts
from system.report.metrics_view import MetricsView
from system.report.run_data import RunData, read_run
from tests.report.charts.drawn_chart import content
from tests.report.generated_run import write_run


def test_recall_axes_start_at_zero(data: RunData) -> None:
    """Else small differences look large."""
    assert content(data, "curves")["layout"]["yaxis"]["range"][0] == 0
    assert content(data, "average")["layout"]["yaxis"]["rangemode"] == "tozero"
    assert content(data, "methods")["layout"]["yaxis"]["rangemode"] == "tozero"
    assert content(data, "routing")["layout"]["yaxis"]["range"] == [0, 100]


def test_single_task_stream_draws_everything(tmp_path: Path) -> None:
    """Else a stream of one task has no report."""
    directory = write_run(tmp_path / "one", ("food", "animal"))
    charts = build_charts(read_run(directory))
    assert all(isinstance(chart, Chart) for chart in charts)


def test_similarity_of_another_size_is_left_out(data: RunData) -> None:
    """Else tasks are labelled with other tasks' similarities."""
    metrics = MetricsView(dict(data.metrics.content) | {"task_similarity": [[1.0]]})
    charts = {chart.key: chart for chart in build_charts(replace(data, metrics=metrics))}
    assert isinstance(charts["similarity"], Absent)
