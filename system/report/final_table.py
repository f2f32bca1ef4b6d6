"""Tables on the terminal: a run's figures at its end, and a dataset's tasks and splits."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from system.evaluation.accuracy_matrix import ZERO_SHOT
from system.report.matrix_view import MatrixView, mean
from system.report.metrics_view import HEADLINE_METRICS, MetricsView
from system.report.shown import Footnotes, Shown

# A word above the first of two columns holds for both; otherwise 80 columns are too few.
HEADERS = (
    *("zero-shot\nt2i", "\ni2t"),
    *("learned\nt2i", "\ni2t"),
    *("end\nt2i", "\ni2t"),
    *("routed\nimages", "\ntexts"),
)


def print_final_table(metrics: Mapping[str, Any], matrix: pa.Table, console: Console) -> None:
    """Print each task's recall before, right after learning and at the end, and the averages.

    Undefined figures are dashes whose reasons stand below the table.

    Args:
        metrics: the content of metrics.json.
        matrix: a table in the schema of accuracy_matrix.parquet.
        console: where to.
    """
    figures, view, notes = MetricsView(metrics), MatrixView.from_table(matrix), Footnotes()
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # fits into 80 columns
        pad_edge=False,
        caption="t2i, i2t: recall at 1, text to image and image to text, %; learned: right after "
        "the task was; routed: task inferred correctly, %",
        caption_justify="left",
    )
    table.add_column("task", no_wrap=True)
    for header in HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for index, task in enumerate(view.tasks):
        table.add_row(Text(task), *_cells(_task_row(view, index, notes)))
    table.add_section()
    table.add_row("average", *_cells(_average_row(figures, view, notes)), style="bold")
    table.add_row("forgetting", *([""] * 4), *_cells(_forgetting(figures, notes)), "", "")
    console.print(table)
    for number, reason in enumerate(notes.reasons, start=1):
        console.print(f"{number}: {reason}", markup=False, highlight=False, soft_wrap=True)


def print_split_table(counts: Mapping[str, Mapping[str, int]], console: Console) -> None:
    """Print the images per task and split (task -> split -> images), with totals."""
    splits = tuple(dict.fromkeys(split for of_task in counts.values() for split in of_task))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for split in splits:
        table.add_column(Text(split), justify="right")
    for task, of_task in counts.items():
        table.add_row(Text(task), *(f"{of_task.get(split, 0):,}" for split in splits))
    table.add_section()
    totals = (sum(of_task.get(split, 0) for of_task in counts.values()) for split in splits)
    table.add_row("images", *(f"{total:,}" for total in totals), style="bold")
    console.print(table)


def _task_row(view: MatrixView, index: int, notes: Footnotes) -> list[Shown]:
    """A task's figures from left to right."""
    last = view.trained[-1]
    cells = [
        view.cell(metric, trained, index)
        for trained in (ZERO_SHOT, index, last)
        for metric in HEADLINE_METRICS
    ]
    if _routed(view):
        cells += [view.cell(metric, last, index) for metric in ("route_image", "route_text")]
    return [notes.percent(cell.value, cell.reason or "undefined") for cell in cells]


def _average_row(figures: MetricsView, view: MatrixView, notes: Footnotes) -> list[Shown]:
    """The averages over tasks; those that metrics.json holds come from there."""

    def known(*path: str) -> Shown:
        return notes.percent(figures.number(*path), figures.reason(*path))

    learned = [
        notes.percent(
            mean(view.diagonal(metric)), f"{metric} right after learning: a task has no figure"
        )
        for metric in HEADLINE_METRICS
    ]
    return [
        *(known("zero_shot", "average", metric) for metric in HEADLINE_METRICS),
        *learned,
        *(known("average", metric) for metric in HEADLINE_METRICS),
        *(known("routing", f"{m}_average") for m in ("image", "text") if _routed(view)),
    ]


def _forgetting(figures: MetricsView, notes: Footnotes) -> list[Shown]:
    paths = [("forgetting", metric) for metric in HEADLINE_METRICS]
    return [notes.points(figures.number(*path), figures.reason(*path)) for path in paths]


def _routed(view: MatrixView) -> bool:
    """Whether the method routes at all; if not, its columns stay empty."""
    return "route_image" in view.metrics or "route_text" in view.metrics


def _cells(row: Sequence[Shown]) -> list[Text]:
    """Cell texts, an undefined one with the number of its footnote."""
    return [Text(f"{s.text} ({s.note})" if s.note else s.text) for s in row]
