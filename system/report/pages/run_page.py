"""report.html: one self-contained page from a run directory, without any network access."""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from system.report.charts.run_charts import build_charts
from system.report.formatting import DASH, Footnotes, duration
from system.report.metrics_view import MetricsView
from system.report.pages.access_summary import AccessSummary, summarise_access
from system.report.pages.example_pictures import PHASES, read_examples
from system.report.pages.held_out import held_out_tables
from system.report.pages.key_metrics import (
    OVER_STREAM,
    PUBLISHED,
    average_rows,
    combined_lines,
    key_metrics,
)
from system.report.pages.origin_rows import provenance
from system.report.pages.page_shell import render_page
from system.report.pages.rec_page import COLUMNS, box_pictures, split_tables
from system.report.run_data import RunData, read_run
from system.report.subsample import SHOWN_TASKS, shown_tasks, subsample
from system.results.stream_metrics import COMBINED, STREAM_METRICS
from system.storage.files import Folder
from system.storage.run_directory import REPORT


def write_report(run_dir: str | Path) -> Path:
    """Write report.html into a run directory, finished or still running.

    Args:
        run_dir: a local path or a pyarrow filesystem URI.

    Returns:
        The page's path; for a URI the path within its file system.

    Raises:
        StorageError: no run directory, or it cannot be written.
        DataError: one of its files cannot be understood.
    """
    page = render_report(read_run(run_dir)).encode()
    folder = Folder.of(run_dir)
    folder.write(REPORT, page)
    return Path(folder.path) / REPORT


def render_report(run: RunData) -> str:
    """The page as HTML text: plotly.js inlined once, pictures as data URIs."""
    notes = Footnotes()
    access = None if run.access_log is None else summarise_access(run.access_log, run.tasks)
    shown = {run.tasks[task] for task in subsample(len(run.tasks))}
    return render_page(
        "report.html",
        run=run,
        metrics=run.metrics,
        identity=_identity(run.metrics, access),
        cards=key_metrics(run.metrics, access, notes),
        averages=average_rows(run.metrics, notes),
        over_stream=OVER_STREAM,
        published=PUBLISHED,
        combined=combined_lines(run.metrics),
        definitions=(*STREAM_METRICS, *(COMBINED if combined_lines(run.metrics) else ())),
        access=access,
        access_tasks=_shown_of(access, shown),
        shown_tasks=shown_tasks(len(run.tasks)),
        held_out=held_out_tables(run.metrics, notes),
        splits=split_tables(run.metrics, notes),
        split_columns=list(COLUMNS.values()),
        charts={chart.key: chart for chart in build_charts(run)},
        examples=None if run.examples is None else read_examples(_of(run.examples, shown)),
        pictures=None if run.box_examples is None else box_pictures(_of(run.box_examples, shown)),
        phases=PHASES,
        phase_seconds=_phase_seconds(run.metrics),
        throughput=_throughput(run),
        notes=notes,
    )


def _shown_of(access: AccessSummary | None, tasks: Collection[str]) -> list[str]:
    """The rows of the table of openings; all of them where no file names the tasks."""
    every = () if access is None else access.by_task
    return [task for task in every if not tasks or task in tasks]


def _of(examples: pa.Table, tasks: Collection[str]) -> pa.Table:
    """The examples of these tasks: those of all would be the larger part of the page."""
    if not tasks:
        return examples
    return examples.filter(pc.is_in(examples["task"], pa.array(sorted(tasks))))


def _identity(metrics: MetricsView, access: AccessSummary | None) -> list[tuple[str, str]]:
    """Label and text of what was run, in the order of the header."""

    def joined(*paths: tuple[str, ...]) -> str:
        parts = [text for path in paths if (text := metrics.text(*path)) is not None]
        return ", ".join(parts) or DASH

    evaluation = {
        "split": "split",
        "gallery": "gallery",
        "captions_per_image": "captions per image",
        "expressions": "expressions",
        "transform": "transform",
        "router": "router",
    }
    evaluated = ", ".join(
        f"{label}: {text}"
        for key, label in evaluation.items()
        if (text := metrics.text("evaluation", key)) is not None
    )
    return [
        ("Method", joined(("method",))),
        ("Backbone", joined(("backbone", "name"))),
        ("Benchmark", joined(("benchmark", "name"))),
        ("Tasks", str(len(metrics.tasks)) if metrics.tasks else DASH),
        ("Seed", joined(("seed",))),
        ("Protocol", joined(("protocol",))),
        ("Date", _date(metrics, access)),
        ("Evaluated with", evaluated or DASH),
        *(
            (("Repeated texts", "; ".join(lines[: SHOWN_TASKS + 1])),)
            if (lines := metrics.repeated_texts())
            else ()
        ),
        *_mask_source(metrics),
        *provenance(metrics),
        *_quarantined(metrics),
    ]


def _mask_source(metrics: MetricsView) -> list[tuple[str, str]]:
    """Where the masks of instance prompts came from, of a method that has such."""
    name, note = (metrics.text("mask_source", key) for key in ("name", "note"))
    return [] if name is None else [("Masks of its prompts", f"{name}: {note}")]


def _quarantined(metrics: MetricsView) -> list[tuple[str, str]]:
    """Training images that were quarantined, where there are any."""
    parts = []
    for kind, found in metrics.mapping("quarantined").items():
        assert isinstance(found, dict)
        parts.append(f"{found['rows']} {kind}: {', '.join(found['first'])}")
    return [("Quarantined", "; ".join(parts))] if parts else []


def _date(metrics: MetricsView, access: AccessSummary | None) -> str:
    """Date of the final metrics; without one, of the last opening in the access log."""
    date = metrics.text("date")
    if date is not None:
        return date
    if access is None or access.last is None:
        return DASH
    return f"{access.last:%Y-%m-%d %H:%M} UTC, last opening of data"


def _phase_seconds(metrics: MetricsView) -> list[tuple[str, str, float]]:
    """Name, duration and share (0..1 of the longest) of each phase, in the order written."""
    seconds = {
        name: value
        for name in metrics.mapping("wall_seconds")
        if (value := metrics.number("wall_seconds", name)) is not None
    }
    longest = max(seconds.values(), default=0.0) or 1.0
    return [(name, duration(value), value / longest) for name, value in seconds.items()]


def _throughput(run: RunData) -> float | None:
    """Median images per second over the epochs trained, None without a log of them."""
    log = run.training_log
    if log is None or "images_per_second" not in log.column_names:
        return None
    speeds = sorted(speed for speed in log["images_per_second"].to_pylist() if speed is not None)
    return speeds[len(speeds) // 2] if speeds else None
