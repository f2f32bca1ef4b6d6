"""What sweeps and parameter counts leave on the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from system.report.metrics_view import direction_of
from system.storage.run_directory import REPORT
from tuning.report.analysis import BEST, LATEX, MARKDOWN, TRIALS_TABLE, Outcome
from tuning.report.charts.cost_charts import parameters_front
from tuning.report.comparison import FORGETTING, RECALL_AT_1, cells, columns
from tuning.report.parameters import BYTES_PER_NUMBER, PUBLISHED_TASKS, ParameterCount

SHORT_HEADERS = {"parameters": "numbers\ntrained", "seconds a task": "s/task"}
IN_FILES_ALONE = "a task"  # a column


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print the comparison and where the files of a sweep are."""
    stream = outcome.measure.kind == "stream"
    what = "recall at 1 and forgetting, %" if stream else outcome.measure.title
    table = _table(f"{what}, mean ± standard deviation over seeds")
    shown = [
        column
        for column in columns(outcome.measure, outcome.comparison)
        if column.header != IN_FILES_ALONE
    ]
    short = SHORT_HEADERS | _two_lines(outcome.comparison.headline)
    for column in shown:
        header = short.get(column.header, column.header)
        if column.header == "setting":
            longest = max((len(row.setting) for row in outcome.comparison.rows), default=0)
            table.add_column(header, min_width=longest)  # a name cut short names nothing
        else:
            table.add_column(header, justify="right")
    for row in outcome.comparison.rows:
        style = "bold" if row.setting == outcome.comparison.best else ""
        texts = cells(row, shown, plus_minus="±")
        texts[0] = row.setting  # its values stand in the files: they would fill the line
        table.add_row(*(Text(text) for text in texts), style=style)
    console.print(table)
    for setting in outcome.comparison.rows:
        if setting.lineage:
            _line(f"{setting.setting} {setting.lineage}: {setting.shown_values}", console)
    failed = [row for row in outcome.trials.to_pylist() if row["status"] == "failed"]
    for row in failed:
        reason = row["reason"] or "its process died; the same command tries it again"
        _line(f"{row['trial']} failed: {reason}", console)
    for name in (TRIALS_TABLE, MARKDOWN, LATEX, REPORT):
        _line(f"{name}: {outcome.folder.file_uri(name)}", console)
    front = parameters_front(outcome.comparison.rows)
    if len(front) > 1:
        shown_front = ", ".join(f"{row.setting} ({row.parameters:,})" for row in front)
        _line(f"fewest numbers for what they reach: {shown_front}", console)
    if outcome.comparison.best is not None:
        best = outcome.folder.file_uri(BEST)
        _line(f"best: {outcome.comparison.best}; promptide run --config {best}", console)


def _two_lines(recalls: Sequence[str]) -> dict[str, str]:
    """Headers of recalls: a word above two columns holds for both, as 80 columns have to do."""
    return {
        f"{direction_of(recall)} {title}": f"{'' if place else word}\n{direction_of(recall)}"
        for title, word in ((RECALL_AT_1, "average"), (FORGETTING, "forgetting"))
        for place, recall in enumerate(recalls)
    }


def print_parameters(counts: Sequence[ParameterCount], console: Console) -> None:
    """Print what each method trains at the published sizes."""
    table = _table(
        f"CLIP ViT-B/16 of {counts[0].backbone:,} frozen numbers, {PUBLISHED_TASKS} tasks, "
        f"{BYTES_PER_NUMBER} bytes a number"
    )
    headers = ("method", "trained\na task", "\nin all", "bytes\nin all", "\na further task")
    for header in headers:
        table.add_column(header, justify="left" if header == "method" else "right")
    for count in counts:
        table.add_row(
            Text(count.label),
            f"{count.per_task:,}",
            f"{count.in_all:,}",
            f"{count.bytes_in_all:,}",
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
