"""Boxes on the page: recalls split by split before and after training, and example pictures."""

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from system.data.shards.images import web_picture
from system.errors import DataError
from system.report.formatting import Footnotes, Formatted
from system.report.metrics_view import GIOU, MetricsView
from system.results.metrics import GROUNDING
from system.results.rec import HIT
from system.storage.run_directory import BOX_EXAMPLES

#: Overlaps by which R@1 is also counted, and the metrics that do.
STRICTER = {f"IoU {metric.least}": metric.name for metric in GROUNDING if metric.least > HIT}
COLUMNS = {"rec_r1": "R@1", "rec_r5": "R@5", "rec_r10": "R@10", "rec_ub": "any box"}
SIDE = 240  # pixels of the longer side, for photographs; smaller pictures stay as they are

Row = tuple[str, list[str]]  # which expressions, and a cell for each of COLUMNS


def split_tables(
    metrics: MetricsView, notes: Footnotes, *, trained: bool = True
) -> dict[str, list[Row]]:
    """The lines of each split's table: all, by size, the mean of tasks, tasks, super-categories.

    Each cell has the value before and after training; before alone where nothing was `trained`.
    Empty for a run of an earlier version that was not judged by splits apart.
    """
    return {
        split: list(_rows(metrics, split, notes, trained)) for split in metrics.mapping("splits")
    }


def split_lines(metrics: MetricsView) -> Iterator[str]:
    """The recalls over all expressions of each split as lines of text.

    None of a stream that one split judges, whose tasks have lines of their own.
    """
    notes = Footnotes()
    splits = metrics.mapping("splits")
    for split in splits if len(splits) > 1 or len(metrics.tasks) < 2 else ():
        for metric, title in COLUMNS.items():
            before, after = _both(metrics, notes, split, "all", metric)
            yield f"{split} {title}: {before.text} zero-shot, {after.text} trained"


def _rows(metrics: MetricsView, split: str, notes: Footnotes, trained: bool) -> Iterator[Row]:
    def cell(*path: str) -> str:
        before, after = _both(metrics, notes, split, *path)
        return f"{_noted(before)} → {_noted(after)}" if trained else _noted(before)

    def cells(*path: str, suffix: str = "") -> list[str]:
        return [cell(*path, metric + suffix) for metric in COLUMNS]

    yield "all expressions, IoU", cells("all")
    yield "all expressions, GIoU", cells("all", suffix=GIOU)
    for name, metric in STRICTER.items():
        if metric in metrics.mapping("splits", split, "all"):
            first = cell("all", metric)
            yield f"all expressions, {name}", [first, *[""] * (len(COLUMNS) - 1)]
    for size, count in metrics.mapping("splits", split, "sizes").items():
        yield f"{size} objects ({count})", cells("per_size", size)
    yield "mean of the tasks", cells("average")
    tasks, groups = (
        metrics.mapping("splits", split, key) for key in ("per_task", "per_super_category")
    )
    for task in tasks:
        yield task, cells("per_task", task)
    for name in groups if set(groups) != set(tasks) else ():
        yield f"super-category {name}", cells("per_super_category", name)


def _both(
    metrics: MetricsView, notes: Footnotes, split: str, *path: str
) -> tuple[Formatted, Formatted]:
    """A recall of the frozen grounder, and after training."""
    before, after = ("zero_shot", "splits", split, *path), ("splits", split, *path)
    return (
        notes.percent(metrics.number(*before), metrics.reason(*before)),
        notes.percent(metrics.number(*after), metrics.reason(*after)),
    )


def _noted(value: Formatted) -> str:
    return f"{value.text} ({value.note})" if value.note else value.text


@dataclass(frozen=True)
class Picture:
    """An expression, its image as a data URI, boxes as x, y, width, height in percent."""

    text: str
    task: str
    source: str
    boxes: tuple[tuple[str, tuple[float, ...]], ...]  # what it is (a CSS class), where it is


def box_pictures(table: pa.Table, *, trained: bool = True) -> list[Picture]:
    """The rows of a stream's box_examples.parquet; without the box of after training if not so."""
    return [
        _picture(
            row["image"],
            f"row {number} of {BOX_EXAMPLES}",
            row["query"],
            row["task"],
            (row["true_box"], row["before_box"], row["after_box"] if trained else None),
        )
        for number, row in enumerate(table.to_pylist())
    ]


def _picture(
    data: bytes, where: str, text: str, task: str, boxes: Sequence[Sequence[float] | None]
) -> Picture:
    """A small picture with its true box and the ones before and after learning."""
    content, media_type = web_picture(data, where, side=SIDE)
    encoded = base64.b64encode(content).decode()
    named = zip(("true", "before", "after"), boxes, strict=True)
    return Picture(
        text,
        task,
        f"data:{media_type};base64,{encoded}",
        tuple((name, _percent(box, where)) for name, box in named if box is not None),
    )


def _percent(box: Sequence[float], where: str) -> tuple[float, ...]:
    if len(box) != 4 or not all(value is not None and math.isfinite(value) for value in box):
        raise DataError(f"{where}: its box {list(box)} is not of four numbers")
    left, top, right, bottom = (round(100 * value, 2) for value in box)
    return left, top, round(right - left, 2), round(bottom - top, 2)
