"""Data of single charts that a reader could misread."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from system.methods.base import SimilaritySource
from system.report.charts.chart_style import Chart
from system.report.charts.matrix_charts import SOURCES
from system.report.charts.run_charts import Absent, build_charts
from system.report.metrics_view import MetricsView
from system.report.run_data import RunData, read_run
from tests.report.run_fixture import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return read_run(write_run(tmp_path_factory.mktemp("charts") / "demo"))


def content(run: RunData, key: str) -> dict[str, Any]:
    (chart,) = (chart for chart in build_charts(run) if chart.key == key)
    assert isinstance(chart, Chart)
    return chart.content


def test_steps_of_all_tasks_are_joined_end_to_end(run: RunData) -> None:
    """Else the losses of all tasks lie on one another."""
    total = content(run, "training")["data"][0]
    assert total["x"] == [13 * (n + 1) for n in range(120)]
    ticks = content(run, "training")["layout"]["xaxis4"]
    assert ticks["ticktext"][:2] == ["0 appliance", "130 sports"]


def test_average_so_far_compares_the_same_tasks(run: RunData) -> None:
    """Else zero-shot is averaged over other tasks than the method."""
    assert run.matrix is not None
    method, zero_shot = content(run, "average")["data"][:2]
    matrix = run.matrix
    for learned in range(12):
        tasks = range(learned + 1)
        for trace, row in ((method, learned), (zero_shot, -1)):
            values = [matrix.value("t2i_r1", row, task) for task in tasks]
            expected = sum(v for v in values if v is not None) / len(values)
            assert trace["y"][learned] == pytest.approx(expected)


def test_recall_axes_start_at_zero(run: RunData) -> None:
    """Else small differences look large."""
    assert content(run, "curves")["layout"]["yaxis"]["range"][0] == 0
    assert content(run, "average")["layout"]["yaxis"]["rangemode"] == "tozero"
    assert content(run, "methods")["layout"]["yaxis"]["rangemode"] == "tozero"
    assert content(run, "routing")["layout"]["yaxis"]["range"] == [0, 100]


def test_missing_true_task_figures_draw_no_empty_series(run: RunData) -> None:
    """Else the legend promises bars that are not there."""
    metrics = MetricsView({k: v for k, v in run.metrics.content.items() if k != "oracle"})
    names = [trace["name"] for trace in content(replace(run, metrics=metrics), "methods")["data"]]
    assert names == ["zero-shot", "this run, task inferred"] * 2


def test_single_task_stream_draws_everything(tmp_path: Path) -> None:
    """Else a stream of one task has no report."""
    directory = write_run(tmp_path / "one", ("food", "animal"))
    charts = build_charts(read_run(directory))
    assert all(isinstance(chart, Chart) for chart in charts)


def test_similarity_of_another_size_is_left_out(run: RunData) -> None:
    """Else tasks are labelled with other tasks' similarities."""
    metrics = MetricsView(dict(run.metrics.content) | {"task_similarity": [[1.0]]})
    charts = {chart.key: chart for chart in build_charts(replace(run, metrics=metrics))}
    assert isinstance(charts["similarity"], Absent)


@pytest.mark.parametrize("source", get_args(SimilaritySource))
def test_similarity_says_what_it_compares(run: RunData, source: str) -> None:
    """A matrix that someone gave must not be shown as the backbone's opinion."""
    metrics = MetricsView(dict(run.metrics.content) | {"task_similarity_source": source})
    charts = {chart.key: chart for chart in build_charts(replace(run, metrics=metrics))}
    chart = charts["similarity"]
    assert isinstance(chart, Chart)
    assert ("frozen backbone" in chart.caption) == (source != "matrix")
    assert SOURCES[source] in chart.caption
