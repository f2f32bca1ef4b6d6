"""report.html of an evaluation without training: averages, tasks, splits, example boxes."""

from pathlib import Path

from system.report.formatting import DASH, Footnotes, Formatted, bracketed
from system.report.metrics_view import METRIC_LABELS, MetricsView
from system.report.pages.origin_rows import provenance
from system.report.pages.page_shell import model_page
from system.report.pages.rec_page import COLUMNS, box_pictures, split_tables
from system.storage.files import Folder
from system.storage.run_directory import BOX_EXAMPLES, METRICS, REPORT


def write_evaluation_report(folder: Folder) -> Path:
    """Write report.html into an evaluation's folder; its path there, within its file system.

    Raises StorageError where metrics.json is not there, or the folder cannot be written.
    """
    metrics = MetricsView(folder.read_json(METRICS))
    trained, notes = metrics.get("adapters") is not None, Footnotes()
    boxes = folder.read_table(BOX_EXAMPLES) if folder.exists(BOX_EXAMPLES) else None
    splits = split_tables(metrics, notes, trained=trained)
    page = model_page(
        "evaluation.html",
        f"{metrics.text('benchmark', 'name')}, {metrics.text('method')}",
        dict(_identity(metrics)),
        leading=(metrics.text("evaluation", "split") or DASH).partition(",")[0],
        columns=("Zero-shot", "With adapters", "Gain") if trained else ("Zero-shot",),
        averages=_averages(metrics, notes, trained),
        task_columns=[METRIC_LABELS[metric] for metric in metrics.headline],
        tasks=_tasks(metrics, notes, trained),
        splits=splits,
        split_columns=list(COLUMNS.values()),
        trained=trained,
        pictures=None if boxes is None else box_pictures(boxes, trained=trained),
        notes=notes,
    )
    folder.write(REPORT, page.encode())
    return Path(folder.path) / REPORT


def _identity(metrics: MetricsView) -> list[tuple[str, str]]:
    learned = metrics.text("learned_on", "tasks")
    rows = [
        ("Method", metrics.text("method")),
        ("Adapters", metrics.text("adapters") or "none: the frozen model alone"),
        ("Learned on", learned and f"{metrics.text('learned_on', 'benchmark')}: {learned}"),
        ("Model", metrics.text("backbone", "name")),
        ("Benchmark", metrics.text("benchmark", "name")),
        ("Splits", metrics.text("evaluation", "split")),
        ("Gallery", metrics.text("evaluation", "gallery")),
        ("Expressions", metrics.text("evaluation", "expressions")),
        ("Transform", metrics.text("evaluation", "transform")),
        ("Masks of its prompts", metrics.text("mask_source", "name")),
    ]
    return [(name, text) for name, text in rows if text] + provenance(metrics)


def _averages(
    metrics: MetricsView, notes: Footnotes, trained: bool
) -> list[tuple[str, str, list[tuple[Formatted, str]]]]:
    """Label, queries, and each column's value with its interval."""
    rows = []
    for metric, label in METRIC_LABELS.items():
        if metric not in metrics.mapping("average"):
            continue
        paths = (("zero_shot", "average", metric), ("average", metric))
        before, after = (metrics.number(*path) for path in paths)
        reasons = [metrics.reason(*path) for path in paths]
        values = [
            (
                notes.percent(before, reasons[0]),
                bracketed(metrics.interval("zero_shot", metric)),
            )
        ]
        if trained:
            gain = None if before is None or after is None else after - before
            values += [
                (
                    notes.percent(after, reasons[1]),
                    bracketed(metrics.interval("average", metric)),
                ),
                (
                    notes.points(gain, reasons[0] if before is None else reasons[1]),
                    bracketed(metrics.interval("gain", metric), sign=True),
                ),
            ]
        rows.append((label, metrics.queries(metric), values))
    return rows


def _tasks(metrics: MetricsView, notes: Footnotes, trained: bool) -> list[tuple[str, list[str]]]:
    """Each task with its leading metrics: before and with adapters."""

    def text(*path: str) -> str:
        value = notes.percent(metrics.number(*path), metrics.reason(*path))
        return f"{value.text} ({value.note})" if value.note else value.text

    return [
        (
            task,
            [
                " → ".join(
                    text(*section, task, metric)
                    for section in (("zero_shot", "per_task"), ("per_task",))[: 1 + trained]
                )
                for metric in metrics.headline
            ],
        )
        for task in metrics.tasks
    ]
