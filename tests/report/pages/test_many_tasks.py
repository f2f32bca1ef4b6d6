"""A page of many tasks: what is drawn is bounded, and says so."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from system.report.charts.run_charts import build_charts
from system.report.matrix_view import MatrixView
from system.report.metrics_view import MetricsView
from system.report.pages.run_page import render_report
from system.report.run_data import RunData
from system.report.subsample import SHOWN_TASKS, subsample
from system.results.accuracy_matrix import AccuracyMatrix, MatrixBlock
from system.storage.run_directory import SIMILARITY_SCHEMA

METRICS = ("t2i_r1", "i2t_r1")


def run_of(count: int) -> RunData:
    """A finished run of so many tasks, three epochs each."""
    tasks = [f"task {number:04d}" for number in range(count)]
    place, queries = np.arange(count, dtype=np.int32), np.full(count, 4, np.int32)
    blocks = [
        MatrixBlock(trained, metric, place, np.where(place <= trained, 60.0, 20.0), queries, {})
        for trained in range(-1, count)
        for metric in METRICS
    ]
    log = {
        "task_index": np.repeat(place, 3),
        "task": np.repeat(tasks, 3).tolist(),
        "epoch": [0, 1, 2] * count,
        "step": [3, 7, 11] * count,
        "loss": [3.0, 2.0, 1.0] * count,
    }
    opens = pa.table(
        {
            "task": tasks,
            "split": ["train"] * count,
            "rows": [4] * count,
            "opened_at": pa.array([0] * count, pa.timestamp("us", tz="UTC")),
            "consumer": ["run"] * count,
            "current_task": tasks,
        }
    )
    later, earlier = np.tril_indices(count)
    similarity = pa.table(
        [later, earlier, np.full(len(later), 0.5), later % 7 == 0], schema=SIMILARITY_SCHEMA
    )
    recalls = dict.fromkeys(METRICS, 40.0)
    metrics = {
        "run": "many",
        "tasks": tasks,
        "average": recalls,
        "routing": {"image": dict.fromkeys(tasks, 90.0)},
        "oracle": {"per_task": dict.fromkeys(tasks, recalls)},
    }
    matrix = MatrixView(AccuracyMatrix(tasks, blocks=blocks))
    training = pa.table(log)
    return RunData(
        "here", MetricsView(metrics), matrix, opens, training, None, None, "", (), similarity
    )


def test_a_page_does_not_grow_with_the_square_of_the_tasks() -> None:
    """That of 300 tasks had 32 MB, which no browser opens."""
    sizes = [len(render_report(run_of(count))) for count in (60, 180)]
    assert sizes[1] - sizes[0] < 150_000, "task by task: points of the curves alone"
    assert sizes[1] < 6_000_000, "most of it the library of charts"


def test_every_chart_of_many_tasks_says_that_it_shows_some() -> None:
    """A reader would else take them for all."""
    charts = {chart.key: chart for chart in build_charts(run_of(100))}
    for key in ("matrix", "curves", "methods", "routing", "similarity"):
        assert f"{SHOWN_TASKS} of 100 tasks" in charts[key].caption, key  # type: ignore[union-attr]
    few = {chart.key: chart for chart in build_charts(run_of(5))}
    assert "tasks are shown" not in few["matrix"].caption  # type: ignore[union-attr]
    assert "of 4950 pairs attract" in charts["similarity"].caption  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [1, 2, SHOWN_TASKS, SHOWN_TASKS + 1, 1000])
def test_shown_places_are_spread_from_the_first_to_the_last(count: int) -> None:
    places = subsample(count)
    assert len(places) == len(set(places)) == min(count, SHOWN_TASKS)
    assert (places[0], places[-1]) == (0, count - 1)
    assert places == sorted(places)
