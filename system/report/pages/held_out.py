"""Held-out benchmarks on the page and on the terminal: never trained, evaluated after each task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from system.report.formatting import Footnotes, Formatted
from system.report.metrics_view import METRIC_LABELS, OTHER_OVERLAPS, MetricsView, headline_metrics


@dataclass(frozen=True)
class HeldOutTable:
    """One benchmark: a row for the frozen model, one after each task, and the difference."""

    name: str
    about: str  # which split, and how many images
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Formatted]]]


def held_out_tables(metrics: MetricsView, notes: Footnotes) -> list[HeldOutTable]:
    """A table a benchmark; none for a run without."""
    return [_table(metrics, name, notes) for name in metrics.held_out]


def held_out_lines(metrics: MetricsView) -> Iterator[str]:
    """The leading recalls of each benchmark before, at the end, and their difference, as text."""
    notes = Footnotes()
    for name in metrics.held_out:
        known = metrics.mapping("held_out", name, "zero_shot")
        after = list(metrics.mapping("held_out", name, "after"))
        parts = []
        for metric in headline_metrics(known):
            before = _percent(metrics, notes, name, "zero_shot", metric)
            last = _percent(metrics, notes, name, *(("after", after[-1]) if after else ()), metric)
            change = _points(metrics, notes, name, "retention", metric)
            parts.append(f"{metric} {before.text} before, {last.text} at the end ({change.text})")
        yield f"held out: {name}: {'; '.join(parts)}"


def _table(metrics: MetricsView, name: str, notes: Footnotes) -> HeldOutTable:
    known = metrics.mapping("held_out", name, "zero_shot")
    shown = [metric for metric in METRIC_LABELS if metric in known and metric not in OTHER_OVERLAPS]

    def row(*path: str) -> list[Formatted]:
        return [_percent(metrics, notes, name, *path, metric) for metric in shown]

    split, images = (metrics.text("held_out", name, key) for key in ("split", "images"))
    after: Mapping[str, object] = metrics.mapping("held_out", name, "after")
    return HeldOutTable(
        name,
        f"split {split}, {images} images",
        [METRIC_LABELS[metric] for metric in shown],
        [
            ("zero-shot", row("zero_shot")),
            *((f"after {task}", row("after", task)) for task in after),
            (
                "last less zero-shot",
                [_points(metrics, notes, name, "retention", metric) for metric in shown],
            ),
        ],
    )


def _percent(metrics: MetricsView, notes: Footnotes, *path: str) -> Formatted:
    return notes.percent(metrics.number("held_out", *path), metrics.reason("held_out", *path))


def _points(metrics: MetricsView, notes: Footnotes, *path: str) -> Formatted:
    return notes.points(metrics.number("held_out", *path), metrics.reason("held_out", *path))
