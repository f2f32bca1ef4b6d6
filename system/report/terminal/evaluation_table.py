"""The terminal table of saved adapters that were evaluated again."""

import math

from rich import box
from rich.console import Console
from rich.table import Table

from system.report.pages.rec_page import GIOU
from system.results.accuracy_matrix import ZERO_SHOT, AccuracyMatrix


def print_evaluation(matrix: AccuracyMatrix, console: Console) -> None:
    """Each task's recalls with the adapters, and the difference from zero-shot under the table."""
    metrics = [metric for metric in matrix.recalls if not metric.endswith(GIOU)]
    last = max(row.trained_index for row in matrix.rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.replace("_", " "), justify="right")
    values = {metric: matrix.values(metric)[last] for metric in metrics}
    before = {metric: matrix.zero_shot(metric) for metric in metrics}
    for index, task in enumerate(matrix.tasks):
        table.add_row(task, *(_percent(values[metric][index]) for metric in metrics))
    table.add_section()
    for name, figures in (("average", values), ("zero-shot", before)):
        table.add_row(name, *(_percent(figures[m].mean()) for m in metrics), style="bold")
    console.print(table)
    for row in matrix.rows:
        if row.reason is not None and row.metric in metrics and row.trained_index != ZERO_SHOT:
            name = matrix.tasks[row.evaluated_index]
            console.print(f"{name} {row.metric}: {row.reason}", markup=False, highlight=False)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
