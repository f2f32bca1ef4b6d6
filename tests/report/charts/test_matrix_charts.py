"""Heat maps that a reader could misread."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest

from system.methods.base import SimilaritySource
from system.report.charts.chart_style import Chart
from system.report.charts.matrix_charts import SOURCES
from system.report.charts.run_charts import build_charts
from system.report.metrics_view import MetricsView
from system.report.run_data import RunData
from tests.report.generated_run import (
    LABELS,
    RECALLS,
    TASKS,
)
from tests.report.page_reader import PageReader


@pytest.mark.parametrize("source", get_args(SimilaritySource))
def test_similarity_says_what_it_compares(data: RunData, source: str) -> None:
    """A matrix that someone gave must not look like the backbone's."""
    metrics = MetricsView(dict(data.metrics.content) | {"task_similarity_source": source})
    charts = {chart.key: chart for chart in build_charts(replace(data, metrics=metrics))}
    chart = charts["similarity"]
    assert isinstance(chart, Chart)
    assert ("frozen backbone" in chart.caption) == (source != "matrix")
    assert SOURCES[source] in chart.caption


def similarity_chart(data: RunData, **changes: object) -> Chart:
    metrics = MetricsView(dict(data.metrics.content) | changes)
    charts = {chart.key: chart for chart in build_charts(replace(data, metrics=metrics))}
    chart = charts["similarity"]
    assert isinstance(chart, Chart)
    return chart


def test_pairs_that_attract_are_framed_on_both_sides(data: RunData) -> None:
    """Where all pairs attract, or none, the task contrast teaches something else than it says."""
    chart = similarity_chart(data)
    frames = chart.content["layout"]["shapes"]  # type: ignore[index]
    cells = {(f["x0"] + 0.5, f["y0"] + 0.5) for f in frames}
    assert cells == {(0, 1), (1, 0), (0, 2), (2, 0)}
    assert "Framed: 2 of 66 pairs attract each other" in chart.caption
    assert "centred over the tasks so far" in chart.caption
    none = similarity_chart(data, attracting_tasks=[], task_similarity_centred=False)
    assert "0 of 66 pairs attract each other" in none.caption
    assert "centred" not in none.caption
    assert "attract" not in similarity_chart(data, attracting_tasks=None).caption


def test_heat_map_holds_the_matrix_file(run: Path, page: PageReader) -> None:
    """Else the heat map shows another matrix; first row zero-shot, one trace per metric."""
    figure = page.data["data-matrix"]
    rows = pq.read_table(run / "accuracy_matrix.parquet").to_pylist()
    expected = {
        (row["metric"], row["trained_index"], row["evaluated_index"]): row["value"] for row in rows
    }
    assert len(figure["data"]) == len(RECALLS)
    by_name = {trace["name"]: trace["z"] for trace in figure["data"]}
    for metric, label in LABELS.items():
        for trained in range(-1, len(TASKS)):
            for task in range(len(TASKS)):
                drawn = by_name[label][trained + 1][task]
                assert drawn == expected[metric, trained, task]
    assert figure["layout"]["yaxis"]["ticktext"][:2] == ["zero-shot", "1 appliance"]
    frames = figure["layout"]["shapes"]
    assert [(f["x0"] + 0.5, f["y0"] + 0.5) for f in frames] == [(i, i + 1) for i in range(12)]


def test_only_one_trace_of_a_choice_is_visible_at_first(page: PageReader) -> None:
    """Else heat maps of several metrics lie on one another."""
    maps = [trace["visible"] for trace in page.data["data-matrix"]["data"]]
    assert maps == [True] + [False] * 5
    bars = [trace["visible"] for trace in page.data["data-methods"]["data"]]
    assert bars == [True] * 3 + [False] * 3
