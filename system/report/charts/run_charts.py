"""Chooses the charts that a run's files allow, and says why another is not there."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from system.report.charts.chart_style import Chart
from system.report.charts.matrix_charts import accuracy_matrix_chart, task_similarity_chart
from system.report.charts.stream_charts import (
    average_curve_chart,
    task_curves_chart,
    training_chart,
)
from system.report.charts.task_charts import method_chart, routing_chart
from system.report.metrics_view import headline_metrics
from system.report.run_data import RunData
from system.results.accuracy_matrix import ZERO_SHOT


@dataclass(frozen=True)
class Absent:
    """A chart that cannot be drawn, with the reason for the reader."""

    key: str
    title: str
    reason: str


def build_charts(run: RunData) -> list[Chart | Absent]:
    """All charts of the page in reading order."""
    return [
        *_matrix_charts(run),
        _routing(run),
        _similarity(run),
        _training(run),
    ]


def _matrix_charts(run: RunData) -> list[Chart | Absent]:
    titles = {
        "matrix": "Accuracy matrix",
        "average": "Average of the tasks learned so far",
        "curves": "Each task over the stream",
        "methods": "What the prompts gain, and what routing costs",
    }
    matrix = run.matrix
    leading = headline_metrics(matrix.metrics if matrix else ())
    if matrix is None or not set(leading) <= set(matrix.metrics):
        reason = (
            "accuracy_matrix.parquet is not there yet: no evaluation has finished"
            if "accuracy_matrix.parquet" in run.missing
            else f"accuracy_matrix.parquet holds no row of {' and '.join(leading)}"
        )
        return [Absent(key, title, reason) for key, title in titles.items()]
    charts: list[Chart | Absent] = [accuracy_matrix_chart(matrix)]
    no_task = "no task has been learned and evaluated yet"
    learned = any(index != ZERO_SHOT for index in matrix.trained)
    charts.append(
        average_curve_chart(matrix) if learned else Absent("average", titles["average"], no_task)
    )
    charts.append(task_curves_chart(matrix))
    charts.append(
        method_chart(run.metrics, matrix)
        if learned
        else Absent("methods", titles["methods"], no_task)
    )
    return charts


def _routing(run: RunData) -> Chart | Absent:
    metrics, tasks = run.metrics, run.tasks
    known = any(
        metrics.number("routing", modality, task) is not None
        for modality in ("image", "text")
        for task in tasks
    )
    if known:
        return routing_chart(metrics, tasks)
    unrouted = metrics.text("evaluation", "router") == "none"
    reason = "this method does not route" if unrouted else metrics.reason("routing")
    return Absent("routing", "Routing accuracy", reason)


def _similarity(run: RunData) -> Chart | Absent:
    if run.similarity is not None:
        return _many_similarities(run, run.similarity)
    rows = run.metrics.get("task_similarity")
    size = len(run.tasks)
    square = (
        isinstance(rows, list)
        and len(rows) == size > 0
        and all(isinstance(row, list) and len(row) == size for row in rows)
    )
    if not square:
        return Absent("similarity", "Task similarity", run.metrics.reason("task_similarity"))
    assert isinstance(rows, list)
    source = run.metrics.text("task_similarity_source") or "captions"  # older runs had no other
    return task_similarity_chart(
        rows,
        run.tasks,
        source,
        centred=run.metrics.get("task_similarity_centred") is True,
        attracting=run.metrics.attracting_tasks,
    )


def _many_similarities(run: RunData, table: pa.Table) -> Chart | Absent:
    """Of a run whose similarities have a table of their own: metrics.json has few alone."""
    size = len(run.tasks)
    similarity = np.full((size, size), np.nan)
    task, other = (table[name].to_numpy() for name in ("task_index", "other_index"))
    if not ((task >= 0) & (task < size) & (other >= 0) & (other <= task)).all():
        return Absent("similarity", "Task similarity", "its table names tasks the run has not")
    similarity[task, other] = similarity[other, task] = table["similarity"].to_numpy()
    attracts = table["attracts"]
    pairs = None
    if attracts.null_count < len(attracts):
        drawn = attracts.fill_null(False).to_numpy()
        names = np.array(run.tasks, object)
        pairs = list(zip(names[other[drawn]], names[task[drawn]], strict=True))
    return task_similarity_chart(
        similarity,
        run.tasks,
        run.metrics.text("task_similarity_source") or "captions",
        centred=run.metrics.get("task_similarity_centred") is True,
        attracting=pairs,
    )


def _training(run: RunData) -> Chart | Absent:
    if run.training_log is None:
        return Absent("training", "Training", "training_log.parquet is not there yet")
    if run.training_log.num_rows == 0:
        return Absent(
            "training", "Training", "training_log.parquet holds no epoch: none was trained"
        )
    return training_chart(run.training_log)
