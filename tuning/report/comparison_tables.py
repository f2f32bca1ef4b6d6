"""The comparison of trial configs as a table: its columns, Markdown and LaTeX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from system.report.formatting import DASH
from system.report.metrics_view import direction_of
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
PARAMETERS = Column("parameters", lambda row, _: _count(row.parameters))
PARAMETERS_PER_TASK = Column("per task", lambda row, _: _count(row.parameters_per_task))
STREAM_COSTS = (
    PARAMETERS_PER_TASK,
    _mean_std("seconds per task", lambda row: row.seconds_per_task),
)
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
    if titles:
        return (LABEL, *map(_stage_column, titles), PARAMETERS, *MODEL_COSTS, SEEDS)
    if metric.kind == "stream":
        return (LABEL, *_recall_columns(comparison.headline), PARAMETERS, *STREAM_COSTS, SEEDS)
    score = _mean_std(metric.title, lambda row: row.score, digits=3)
    return (LABEL, score, PARAMETERS, *MODEL_COSTS, SEEDS)


def cells(row: ConfigRow, chosen: Sequence[Column], plus_minus: str = " ± ") -> list[str]:
    """A row's formatted cells in the chosen columns."""
    return [column.cell(row, plus_minus) for column in chosen]


def to_markdown(comparison: Comparison, metric: SweepMetric) -> str:
    """The comparison as a Markdown table."""
    chosen = columns(metric, comparison)
    headers = [column.header for column in chosen]
    lines = ["| " + " | ".join(headers) + " |", "|---|" + "---:|" * (len(headers) - 1)]
    lines += ["| " + " | ".join(cells(row, chosen)) + " |" for row in comparison.rows]
    return "\n".join(lines) + "\n"


def to_latex(comparison: Comparison, metric: SweepMetric) -> str:
    """The comparison as a LaTeX table; needs the package booktabs."""
    chosen = columns(metric, comparison)
    alignment = "l" + "r" * (len(chosen) - 1)
    body = [
        " & ".join(_latex(cell) for cell in cells(row, chosen, plus_minus=r" $\pm$ ")) + r" \\"
        for row in comparison.rows
    ]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            " & ".join(_latex(column.header) for column in chosen) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex(text: str) -> str:
    """Plain text escaped for LaTeX; the math of plus-minus stays."""
    escaped = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", DASH: "--"}
    return "".join(escaped.get(letter, letter) for letter in text)


def _count(number: int | None) -> str:
    return DASH if number is None else f"{number:,}"
