"""The terminal table of saved adapters that were evaluated again."""

import math

from rich import box
from rich.console import Console
from rich.table import Table

from system.evaluation.accuracy_matrix import ZERO_SHOT, AccuracyMatrix

METRICS = ("t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10")


def print_evaluation(matrix: AccuracyMatrix, console: Console) -> None:
    """Each task's recalls with the adapters, and the difference from zero-shot under the table."""
    last = max(row.trained_index for row in matrix.rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for metric in METRICS:
        table.add_column(metric.replace("_", " "), justify="right")
    values = {metric: matrix.values(metric)[last] for metric in METRICS}
    before = {metric: matrix.zero_shot(metric) for metric in METRICS}
    for index, task in enumerate(matrix.tasks):
        table.add_row(task, *(_percent(values[metric][index]) for metric in METRICS))
    table.add_section()
    for name, figures in (("average", values), ("zero-shot", before)):
        table.add_row(name, *(_percent(figures[m].mean()) for m in METRICS), style="bold")
    console.print(table)
    for row in matrix.rows:
        if row.reason is not None and row.metric in METRICS and row.trained_index != ZERO_SHOT:
            name = matrix.tasks[row.evaluated_index]
            console.print(f"{name} {row.metric}: {row.reason}", markup=False, highlight=False)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
