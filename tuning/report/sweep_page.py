"""report.html of a sweep: one self-contained page from the files of `tuning.report.analysis`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from system.report.metrics_view import METRIC_LABELS, direction_of
from system.report.pages.page_shell import render_page
from system.storage.files import Folder
from system.storage.run_directory import REPORT, SWEEP
from tuning.report.analysis import INTERVALS, TRIALS_TABLE
from tuning.report.certainty import NOT_KNOWN, Certainty
from tuning.report.charts.sweep_charts import build_charts
from tuning.report.comparison import compare
from tuning.report.comparison_tables import cells, certainty_caption, certainty_table, columns
from tuning.run.learning_rates import LEARNING_RATES
from tuning.search.sweep_config import SweepMetric


def is_sweep(folder: Folder) -> bool:
    """Whether a directory contains the results of a sweep."""
    return folder.exists(SWEEP) and folder.exists(TRIALS_TABLE)


def write_sweep_page(folder: Folder) -> str:
    """Write report.html into a sweep's directory and return its URI.

    Raises StorageError when a file cannot be read or written.
    """
    sweep = folder.read_json(SWEEP)
    trials = folder.read_table(TRIALS_TABLE).to_pylist()
    rates = f"{LEARNING_RATES}.json"
    certainty = NOT_KNOWN
    if folder.exists(INTERVALS):
        certainty = Certainty.from_json(folder.read_json(INTERVALS))
    page = render_sweep(
        sweep,
        trials,
        folder.read_json(rates) if folder.exists(rates) else None,
        folder.uri,
        certainty,
    )
    folder.write(REPORT, page.encode())
    return folder.file_uri(REPORT)


def render_sweep(
    sweep: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    rates: Mapping[str, Any] | None,
    location: str,
    certainty: Certainty = NOT_KNOWN,
) -> str:
    """The page as HTML text."""
    comparison = compare(trials, seeds=len(sweep["seeds"]))
    comparison = replace(comparison, certainty=certainty)
    sure_headers, sure_rows = certainty_table(comparison)
    metric = SweepMetric.of(sweep)
    chosen = columns(metric, comparison)
    return render_page(
        "sweep.html",
        "tuning.report",
        sweep=sweep,
        metric=metric,
        identity=_identity(sweep, trials),
        headers=[column.header for column in chosen],
        rows=[(cells(row, chosen), row) for row in comparison.rows],
        best=comparison.best,
        sure_headers=sure_headers,
        sure_rows=sure_rows,
        sure_caption=certainty_caption(comparison) if sure_rows else "",
        unsure=comparison.certainty.missing,
        overrides=[row for row in comparison.rows if row.overrides and not row.values],
        zero_shot=_zero_shot(trials, comparison.headline),
        sections=build_charts(comparison, trials, metric),
        rates=rates,
        trials=[{**trial, "last": _last(trial)} for trial in trials],
        location=location,
    )


def _identity(
    sweep: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    statuses = [trial["status"] for trial in trials]
    counts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    return [
        ("Benchmark", sweep["benchmark"]),
        ("Tasks", str(len(sweep["tasks"]))),
        ("Seeds", ", ".join(str(seed) for seed in sweep["seeds"])),
        ("Search", sweep["search"] + (", few parameters" if sweep["fewer_parameters"] else "")),
        ("Scheduler", sweep["scheduler"]),
        ("Trials", ", ".join(counts)),
        ("Evaluated with", sweep["evaluated_with"]),
        ("Compared by", ", ".join(METRIC_LABELS.get(metric, metric) for metric in sweep["metric"])),
        ("Command", "promptide sweep " + " ".join(sweep["command"])),
    ]


def _zero_shot(trials: Sequence[Mapping[str, Any]], recalls: Sequence[str]) -> str:
    """The recalls of the frozen model, from any finished trial."""
    for trial in trials:
        found = {recall: trial.get(f"zero_shot_{recall}") for recall in recalls}
        if None not in found.values():
            return ", ".join(f"{direction_of(name)} {value:.1f}" for name, value in found.items())
    return ""


def _last(trial: Mapping[str, Any]) -> float | None:
    known = [score for score in trial["figure_by_task"] if score is not None]
    return known[-1] if known else None
