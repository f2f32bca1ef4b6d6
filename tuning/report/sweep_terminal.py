"""Results of sweeps and parameter counts as tables on the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from system.report.metrics_view import direction_of
from system.storage.run_directory import REPORT
from tuning.report.analysis import BEST, LATEX, MARKDOWN, TRIALS_TABLE, Outcome
from tuning.report.charts.cost_charts import parameters_front
from tuning.report.comparison import Comparison
from tuning.report.comparison_tables import (
    FORGETTING,
    LABEL,
    PARAMETERS_PER_TASK,
    RECALL_AT_1,
    SECONDS_PER_TASK,
    SEEDS,
    cells,
    certainty_caption,
    certainty_table,
    columns,
)
from tuning.report.parameters import BYTES_PER_PARAMETER, PUBLISHED_TASKS, ParameterCount

SHORT_HEADERS = {"parameters": "parameters\ntrained"}


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print the comparison, why trials failed, and where the files of a sweep are."""
    stream = outcome.metric.kind == "stream"
    scores = "recall at 1 and forgetting, %" if stream else outcome.metric.title
    rows = outcome.comparison.rows
    seeds = {row.seeds if row.complete else None for row in rows}
    over = f"{rows[0].seeds} seeds" if len(seeds) == 1 and None not in seeds else "seeds"
    table = _table(f"{scores}, mean ± standard deviation over {over}")
    # 80 columns have no room for all: comparison.md has them.
    left_out = [PARAMETERS_PER_TASK, *([SECONDS_PER_TASK] if stream else [])]
    left_out += [SEEDS] if over != "seeds" else []
    all_columns = columns(outcome.metric, outcome.comparison)
    chosen = [column for column in all_columns if column not in left_out]
    short = SHORT_HEADERS | _two_lines(outcome.comparison.headline)
    for column in chosen:
        header = short.get(column.header, column.header)
        if column is LABEL:
            longest = max((len(row.label) for row in outcome.comparison.rows), default=0)
            table.add_column(header, min_width=longest)  # a label that is cut off is of no use
        else:
            table.add_column(header, justify="right")
    for row in outcome.comparison.rows:
        style = "bold" if row.label == outcome.comparison.best else ""
        texts = cells(row, chosen, plus_minus="±")
        texts[0] = row.label  # without its values, which would fill the line; the files have them
        table.add_row(*(Text(text) for text in texts), style=style)
    console.print(table)
    _print_certainty(outcome.comparison, console)
    for row in outcome.comparison.rows:
        if row.lineage:
            _line(f"{row.label} {row.lineage}: {row.values_text}", console)
    for trial in outcome.trials.to_pylist():
        if trial["status"] == "failed":
            reason = trial["reason"] or "its process died; the same command tries it again"
            _line(f"{trial['trial']} failed: {reason}", console)
    for name in (TRIALS_TABLE, MARKDOWN, LATEX, REPORT):
        _line(f"{name}: {outcome.folder.file_uri(name)}", console)
    front = parameters_front(outcome.comparison.rows)
    if len(front) > 1:
        on_front = ", ".join(f"{row.label} ({row.parameters:,})" for row in front)
        _line(f"Pareto front of score and trainable parameters: {on_front}", console)
    if outcome.comparison.best is not None:
        best = outcome.folder.file_uri(BEST)
        _line(f"best: {outcome.comparison.best}; promptide run --config {best}", console)


def _print_certainty(comparison: Comparison, console: Console) -> None:
    """The intervals and paired differences, and which trial configs have none."""
    headers, rows = certainty_table(comparison)
    if rows:
        table = _table(certainty_caption(comparison))
        base = f"to {comparison.certainty.base}"
        for place, header in enumerate(headers):
            title = Text("difference" if header == base else header)
            table.add_column(title, justify="right" if place else "left", no_wrap=not place)
        for texts in rows:
            # An interval stands below its value: the line is too short for both.
            table.add_row(*(Text(text.replace(" [", "\n[")) for text in texts))
        console.print(table)
    for label, reason in comparison.certainty.missing.items():
        _line(f"no interval for {label}: {reason}", console)


def _two_lines(recalls: Sequence[str]) -> dict[str, str]:
    """Short headers of recalls; a word above the first of several columns holds for all of them."""
    return {
        f"{direction_of(recall)} {title}": f"{'' if place else word}\n{direction_of(recall)}"
        for title, word in ((RECALL_AT_1, "average"), (FORGETTING, "forgetting"))
        for place, recall in enumerate(recalls)
    }


def print_parameters(counts: Sequence[ParameterCount], console: Console) -> None:
    """Print how many parameters each method trains at the published sizes."""
    table = _table(
        f"CLIP ViT-B/16: {counts[0].backbone:,} frozen parameters, {PUBLISHED_TASKS} tasks, "
        f"{BYTES_PER_PARAMETER} bytes per parameter"
    )
    headers = (
        "method",
        "trained\nper task",
        "\nin total",
        "bytes\nin total",
        "bytes per\nfurther task",
    )
    for header in headers:
        table.add_column(header, justify="left" if header == "method" else "right")
    for count in counts:
        table.add_row(
            Text(count.label),
            f"{count.per_task:,}",
            f"{count.total:,}",
            f"{count.bytes_total:,}",
            f"{count.bytes_per_task:,.0f}",
        )
    console.print(table)


def _table(caption: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # fits into 80 columns
        pad_edge=False,
        caption=caption,
        caption_justify="left",
    )


def _line(text: str, console: Console) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
