"""The comparison of trial configs as a table: its columns, Markdown and LaTeX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from system.escapes import latex, markdown, visible
from system.report.formatting import DASH
from system.report.metrics_view import direction_of
from system.results.intervals import LEVEL
from tuning.report.comparison import Comparison, ConfigRow, MeanStd
from tuning.search.sweep_config import SweepMetric


@dataclass(frozen=True)
class Column:
    """A column of the comparison: its header, and how a row's cell is formatted."""

    header: str
    cell: Callable[[ConfigRow, str], str]  # of the row and the text of plus-minus


def _mean_std(header: str, of: Callable[[ConfigRow], MeanStd], digits: int = 1) -> Column:
    return Column(header, lambda row, plus_minus: of(row).text(plus_minus, digits))


RECALL_AT_1, FORGETTING = "R@1", "forgetting"  # in headers
MISSING = MeanStd.of([])
LABEL = Column("trial config", lambda row, _: row.title)
SHARING = Column("sharing", lambda row, _: row.sharing or DASH)
PARAMETERS = Column("parameters", lambda row, _: _count(row.parameters))
PARAMETERS_PER_TASK = Column("per task", lambda row, _: _count(row.parameters_per_task))
SECONDS_PER_TASK = _mean_std("seconds per task", lambda row: row.seconds_per_task)
STREAM_COSTS = (PARAMETERS_PER_TASK, SECONDS_PER_TASK)
MODEL_COSTS = (_mean_std("seconds", lambda row: row.seconds),)
SEEDS = Column("seeds", lambda row, _: str(row.seeds) + (f" ({row.status})" if row.status else ""))


def _stage_column(title: str) -> Column:
    return _mean_std(title, lambda row: row.stage_columns.get(title, MISSING))


def _recall_columns(recalls: Sequence[str]) -> list[Column]:
    """Averages of the recalls, then forgetting."""
    return [
        *(_recall_column(RECALL_AT_1, lambda row: row.averages, recall) for recall in recalls),
        *(_recall_column(FORGETTING, lambda row: row.forgetting, recall) for recall in recalls),
    ]


def _recall_column(
    title: str, part: Callable[[ConfigRow], Mapping[str, MeanStd]], recall: str
) -> Column:
    return _mean_std(f"{direction_of(recall)} {title}", lambda row: part(row).get(recall, MISSING))


def columns(metric: SweepMetric, comparison: Comparison) -> tuple[Column, ...]:
    """Recall and forgetting for streams; for models their stage's columns, or else the score."""
    titles = dict.fromkeys(title for row in comparison.rows for title in row.stage_columns)
    # A table of an earlier version does not tell it.
    first = (LABEL, SHARING) if any(row.sharing for row in comparison.rows) else (LABEL,)
    if titles:
        return (*first, *map(_stage_column, titles), PARAMETERS, *MODEL_COSTS, SEEDS)
    if metric.kind == "stream":
        return (*first, *_recall_columns(comparison.headline), PARAMETERS, *STREAM_COSTS, SEEDS)
    score = _mean_std(metric.title, lambda row: row.score, digits=3)
    return (LABEL, score, PARAMETERS, *MODEL_COSTS, SEEDS)


def cells(row: ConfigRow, chosen: Sequence[Column], plus_minus: str = " ± ") -> list[str]:
    """A row's formatted cells in the chosen columns."""
    return [column.cell(row, plus_minus) for column in chosen]


def to_markdown(comparison: Comparison, metric: SweepMetric) -> str:
    """The comparison as Markdown tables: its columns, then how sure its recalls are."""
    chosen = columns(metric, comparison)
    lines = _markdown(
        [column.header for column in chosen], [cells(r, chosen) for r in comparison.rows]
    )
    headers, rows = certainty_table(comparison)
    if rows:
        lines += ["", markdown(certainty_caption(comparison)), "", *_markdown(headers, rows)]
    for label, reason in comparison.certainty.missing.items():
        lines += ["", markdown(f"No interval for {label}: {reason}.")]
    return "\n".join(lines) + "\n"


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(map(markdown, row))} |" for row in (headers, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(headers) - 1), *lines[1:]]


def certainty_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the intervals and paired differences; no rows where none is known."""
    certainty, recalls = comparison.certainty, comparison.headline
    versus = [] if certainty.base is None else [f"to {certainty.base}"]
    headers = ["trial config"]
    for recall in recalls:
        headers += [f"{direction_of(recall)} {RECALL_AT_1}", *versus]
    rows = []
    for row in comparison.rows:
        if (found := certainty.configs.get(row.label)) is None:
            continue
        texts = [row.label]
        for recall in recalls:
            texts += [found[recall].text, *([found[recall].difference_text] if versus else [])]
        rows.append(texts)
    return headers, rows


def certainty_caption(comparison: Comparison) -> str:
    """What `certainty_table` shows, in a sentence or two."""
    certainty = comparison.certainty
    first = next(iter(certainty.configs.values()))
    counts = ", ".join(
        f"{found.queries:,} {direction_of(recall)} queries" for recall, found in first.items()
    )
    text = (
        f"In brackets: {LEVEL} % bootstrap intervals over the test images ({counts}), of means "
        "over seeds."
    )
    if certainty.base is None:
        return text
    return f"{text} Differences to {certainty.base} are in points, paired query by query."


def to_latex(comparison: Comparison, metric: SweepMetric) -> str:
    """The comparison as LaTeX tables, as `to_markdown`; they need the package booktabs."""
    chosen = columns(metric, comparison)
    lines = _tabular(
        [column.header for column in chosen],
        [cells(row, chosen) for row in comparison.rows],
    )
    headers, rows = certainty_table(comparison)
    if rows:
        lines += ["", f"% {visible(certainty_caption(comparison))}", *_tabular(headers, rows)]
    return "\n".join([*lines, ""])


def _tabular(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        rf"\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex, headers)) + r" \\",
        r"\midrule",
        *(" & ".join(map(latex, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _count(number: int | None) -> str:
    return DASH if number is None else f"{number:,}"
