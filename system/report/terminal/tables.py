"""Tables on the terminal: a run's metrics at its end, saved adapters evaluated again, splits."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from system.report.formatting import Footnotes, Formatted, bracketed, signed
from system.report.matrix_view import MatrixView, mean
from system.report.metrics_view import GIOU, OTHER_OVERLAPS, MetricsView, direction_of
from system.report.pages.held_out import held_out_lines
from system.report.pages.rec_page import COLUMNS, split_lines
from system.report.subsample import SHOWN_TASKS, shown_tasks, subsample
from system.results.accuracy_matrix import ROUTE, ZERO_SHOT, AccuracyMatrix
from system.results.rec import HIT
from system.results.stream_metrics import (
    BACKWARD_TRANSFER,
    FORWARD_TRANSFER,
    STREAM_AVERAGE,
    STREAM_METRICS,
    TRANSFER,
)

#: Plural of the routed samples, by metric.
ROUTED = {"route_image": "images", "route_text": "texts"}
#: Captions that explain the columns of a stream's leading metrics.
WORDS = {
    "t2i": "t2i, i2t: recall at 1, text to image and image to text, %",
    "rec": "rec: recall at 1 of boxes at an IoU of 0.5, %",
}


def print_final_table(metrics: Mapping[str, Any], matrix: AccuracyMatrix, console: Console) -> None:
    """Print each task's recall before, right after learning and at the end, and the averages.

    Of many tasks some are printed; the averages are of all. Undefined values are dashes whose
    reasons stand below the table.

    Args:
        metrics: the content of metrics.json.
        matrix: the stream's, without held-out benchmarks.
        console: where to.
    """
    final, view, notes = MetricsView(metrics), MatrixView(matrix), Footnotes()
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # fits into 80 columns
        pad_edge=False,
        caption=f"{WORDS[direction_of(view.headline[0])]}; learned: right after the task was; "
        "routed: task inferred correctly, %",
        caption_justify="left",
    )
    table.add_column("task", no_wrap=True)
    for header in _headers(view):
        table.add_column(header, justify="right", no_wrap=True)
    for index in subsample(len(view.tasks)):
        table.add_row(Text(view.tasks[index]), *_cells(_task_row(view, index, notes)))
    table.add_section()
    table.add_row("average", *_cells(_average_row(final, view, notes)), style="bold")
    table.add_row(
        "forgetting", *([""] * 2 * len(view.headline)), *_cells(_forgetting(final, view, notes))
    )
    console.print(table)
    _say_shown(len(view.tasks), console)
    for number, reason in enumerate(notes.reasons, start=1):
        console.print(f"{number}: {reason}", markup=False, highlight=False, soft_wrap=True)
    lines = [*_summaries(final, view), *_attraction(final)]
    lines += final.repeated_texts()[: SHOWN_TASKS + 1]  # the first is of all tasks
    for line in (*lines, *split_lines(final), *held_out_lines(final)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _attraction(final: MetricsView) -> list[str]:
    """A line on the tasks that attracted each other, of a method that compares tasks."""
    pairs = final.attracting_tasks
    if pairs is None or len(final.tasks) < 2:
        return []
    every = len(final.tasks) * (len(final.tasks) - 1) // 2
    named = "".join(f", {one} and {other}" for one, other in pairs)
    return [f"task contrast: {len(pairs)} of {every} pairs of tasks attract{named}"]


def print_evaluation(matrix: AccuracyMatrix, console: Console, title: str | None = None) -> None:
    """Each task's recalls with the adapters, their average and that of the frozen model.

    Of what the adapters were not learned on also each task's of the frozen model.
    """
    metrics = [metric for metric in matrix.recalls if metric not in OTHER_OVERLAPS]
    last = matrix.trained[-1]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("task", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.replace("_", " "), justify="right")
    values = {metric: matrix.values(metric)[last] for metric in metrics}
    before = {metric: matrix.zero_shot(metric) for metric in metrics}
    shown = subsample(len(matrix.evaluated))
    for index in shown:
        task = matrix.evaluated[index]
        table.add_row(Text(task), *(_percent(values[metric][index]) for metric in metrics))
    table.add_section()
    for index in shown if matrix.held_out else ():
        cells = (_percent(before[metric][index]) for metric in metrics)
        table.add_row(Text(f"{matrix.evaluated[index]}, zero-shot"), *cells)
    table.add_section()
    judged = {
        m: [matrix.has_queries(m, task) for task in range(len(matrix.evaluated))] for m in metrics
    }
    for name, recalls in (("average", values), ("zero-shot", before)):
        means = [recalls[m][judged[m]].mean() if any(judged[m]) else float("nan") for m in metrics]
        table.add_row(name, *map(_percent, means), style="bold")
    console.print(table)
    _say_shown(len(matrix.evaluated), console)
    if matrix.held_out:
        learned = matrix.tasks[: last + 1]
        tasks = ", ".join(learned) if len(learned) <= SHOWN_TASKS else f"{len(learned):,} tasks"
        console.print(f"learned on: {tasks}", markup=False, highlight=False, soft_wrap=True)
    for row in matrix.rows:
        if row.trained_index == ZERO_SHOT or row.evaluated_index not in shown:
            continue
        if row.reason is not None and row.metric in metrics:
            name = matrix.evaluated[row.evaluated_index]
            console.print(f"{name} {row.metric}: {row.reason}", markup=False, highlight=False)


def _say_shown(tasks: int, console: Console) -> None:
    if sentence := shown_tasks(tasks).strip():
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def print_split_recalls(metrics: Mapping[str, Any], console: Console) -> None:
    """The recalls of boxes over all expressions of each split, by IoU and by GIoU.

    `metrics` are those of an evaluation; without boxes there is nothing to print.
    """
    view = MetricsView(metrics)
    if not view.mapping("splits"):
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="all expressions", title_justify="left"
    )
    table.add_column("split", no_wrap=True)
    table.add_column("a hit", no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    phases: list[tuple[str, tuple[str, ...]]] = [("", ("zero_shot", "splits"))]
    if view.get("adapters") is not None:
        phases = [(", zero-shot", ("zero_shot", "splits")), (", trained", ("splits",))]
    for split in view.mapping("splits"):
        for measure, suffix in (("IoU", ""), ("GIoU", GIOU)):
            for name, path in phases:
                cells = (
                    _percent(math.nan if value is None else value)
                    for metric in COLUMNS
                    for value in [view.number(*path, split, "all", metric + suffix)]
                )
                table.add_row(Text(split + name), f"{measure} >= {HIT}", *cells)
    console.print(table)


def print_summaries(metrics: Mapping[str, Any], console: Console) -> None:
    """A line a recall with its summaries over the stream, as metrics.json holds them."""
    final, notes = MetricsView(metrics), Footnotes()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    for metric in STREAM_METRICS:
        table.add_column(metric.label, justify="right")
    for recall in metrics["average"]:
        cells = []
        for metric in STREAM_METRICS:
            shown = notes.percent if metric.unit == "percent" else notes.points
            path = (metric.name, recall)
            cells.append(shown(final.number(*path), final.reason(*path)))
        table.add_row(recall, *_cells(cells))
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


def _headers(view: MatrixView) -> list[str]:
    """Column headers; a word above the first column of a group holds for all, to save width."""
    names = [direction_of(metric) for metric in view.headline]
    groups = [("zero-shot", names), ("learned", names), ("end", names)]
    groups.append(("routed", list(_routed(view).values())))
    return [
        f"{'' if place else word}\n{name}"
        for word, group in groups
        for place, name in enumerate(group)
    ]


def _task_row(view: MatrixView, index: int, notes: Footnotes) -> list[Formatted]:
    """A task's values from left to right."""
    last = view.trained[-1]
    cells = [
        view.cell(metric, trained, index)
        for trained in (ZERO_SHOT, index, last)
        for metric in view.headline
    ]
    cells += [view.cell(metric, last, index) for metric in _routed(view)]
    return [notes.percent(cell.value, cell.reason or "undefined") for cell in cells]


def _average_row(final: MetricsView, view: MatrixView, notes: Footnotes) -> list[Formatted]:
    """The averages over tasks; those that metrics.json holds come from there."""

    def known(*path: str) -> Formatted:
        return notes.percent(final.number(*path), final.reason(*path))

    learned = [
        notes.percent(
            mean(view.diagonal(metric)), f"{metric} right after learning: undefined for a task"
        )
        for metric in view.headline
    ]
    return [
        *(known("zero_shot", "average", metric) for metric in view.headline),
        *learned,
        *(known("average", metric) for metric in view.headline),
        *(known("routing", f"{m.removeprefix(ROUTE)}_average") for m in _routed(view)),
    ]


def _forgetting(final: MetricsView, view: MatrixView, notes: Footnotes) -> list[Formatted]:
    paths = [("forgetting", metric) for metric in view.headline]
    return [notes.points(final.number(*path), final.reason(*path)) for path in paths]


def _summaries(final: MetricsView, view: MatrixView) -> Iterator[str]:
    """The leading averages with their intervals, then the metrics of the stream, in lines."""
    for metric in view.headline:
        average, ends = final.number("average", metric), final.interval("average", metric)
        if average is not None and ends is not None:
            gain = bracketed(final.interval("gain", metric), sign=True)
            yield (
                f"{_short(metric)}: {average:.1f} {bracketed(ends)} of {final.queries(metric)}"
                f"{gain and f', over zero-shot {gain}'}, 95 % intervals"
            )
    for metric in view.headline:
        parts = []
        for summary in (STREAM_AVERAGE, TRANSFER, BACKWARD_TRANSFER, FORWARD_TRANSFER):
            value = final.number(summary.name, metric)
            if value is not None:
                shown = f"{value:.1f}" if summary.unit == "percent" else signed(value)
                parts.append(f"{summary.label} {shown}")
        if parts:
            yield f"{_short(metric)}: {', '.join(parts)}"


def _short(metric: str) -> str:
    """A metric as a line begins with it: 't2i R@1'."""
    return f"{direction_of(metric)} R@1"


def _routed(view: MatrixView) -> dict[str, str]:
    """The entries of `ROUTED` that were measured: none where the method does not route."""
    return {metric: name for metric, name in ROUTED.items() if metric in view.metrics}


def _cells(row: Sequence[Formatted]) -> list[Text]:
    """Cell texts, an undefined one with the number of its footnote."""
    return [Text(f"{s.text} ({s.note})" if s.note else s.text) for s in row]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
