"""Settings side by side: means and spreads over seeds, as Markdown and LaTeX."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from system.report.formatting import DASH
from system.report.metrics_view import direction_of, headline_metrics
from tuning.report.measure import Measure, counted


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; NaN where there are too few figures."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread":
        """Over all values; undefined as soon as one of them is."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return cls(math.nan, math.nan)
        mean = sum(known) / len(known)
        if len(known) == 1:
            return cls(mean, math.nan)
        return cls(mean, math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1)))

    def text(self, plus_minus: str = " ± ", digits: int = 1) -> str:
        """Such as `24.9 ± 0.3`; the mean alone of one seed."""
        if math.isnan(self.mean):
            return DASH
        mean = f"{round(self.mean, digits) + 0.0:.{digits}f}"  # never -0.0
        return mean if math.isnan(self.std) else f"{mean}{plus_minus}{self.std:.{digits}f}"


@dataclass(frozen=True)
class SettingRow:
    """A setting over its finished seeds; `status` says what became of the others."""

    setting: str
    method: str
    seeds: int
    complete: bool  # finished with all of the sweep's seeds, and with a figure
    status: str
    figure: Spread
    averages: Mapping[str, Spread]
    forgetting: Mapping[str, Spread]
    shown: Mapping[str, Spread]  # by heading; empty for streams and for single models
    parameters: int | None
    parameters_per_task: int | None
    seconds: Spread
    seconds_per_task: Spread
    learning_rate: float | None
    overrides: tuple[str, ...]
    values: Mapping[str, Any]  # what was drawn, by short names
    parent: str | None = None  # the setting whose first `forked_after` tasks were taken over
    forked_after: int = 0

    @property
    def shown_values(self) -> str:
        """The values in a line."""
        return ", ".join(f"{name}={_plain(value)}" for name, value in self.values.items())

    @property
    def lineage(self) -> str:
        """Where the setting began, in a line; empty for one that began with the first task."""
        return f"from {self.parent} after {counted(self.forked_after)}" if self.parent else ""

    @property
    def title(self) -> str:
        """The setting with its values, for tables."""
        told = "; ".join(filter(None, (self.shown_values, self.lineage)))
        return f"{self.setting}: {told}" if told else self.setting


@dataclass(frozen=True)
class Comparison:
    """All settings, those that finished with all seeds first and by figure; `best` heads them."""

    rows: tuple[SettingRow, ...]
    best: str | None

    @property
    def headline(self) -> tuple[str, ...]:
        """The recalls that lead; what models are compared by has other names."""
        return headline_metrics({recall for row in self.rows for recall in row.averages})


def compare(trials: Sequence[Mapping[str, Any]], seeds: int) -> Comparison:
    """Put the rows of trials.parquet together by setting; each has as many trials as `seeds`."""
    labels = dict.fromkeys(row["setting"] for row in trials)
    names = short_names([key for row in trials for key in json.loads(row["values"])])
    rows = [
        _setting([r for r in trials if r["setting"] == label], names, seeds) for label in labels
    ]

    def rank(row: SettingRow) -> tuple[bool, float]:
        figure = row.figure.mean
        return not row.complete, math.inf if math.isnan(figure) else -figure

    rows.sort(key=rank)
    best = rows[0].setting if rows and rows[0].complete else None
    return Comparison(tuple(rows), best)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted keys that tell them apart."""
    names: dict[str, str] = {}
    for key in dict.fromkeys(keys):
        parts = key.split(".")
        ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        others = [other for other in keys if other != key]
        names[key] = next(
            (e for e in ends if not any(o == e or o.endswith(f".{e}") for o in others)), key
        )
    return names


def _setting(
    trials: Sequence[Mapping[str, Any]], names: Mapping[str, str], seeds: int
) -> SettingRow:
    done = [row for row in trials if row["status"] == "finished"]
    others = [row["status"] for row in trials if row["status"] != "finished"]
    first = (done or trials)[0]
    figure = Spread.of([row["figure"] for row in done])
    counted = [f"{others.count(status)} {status}" for status in dict.fromkeys(others)]
    return SettingRow(
        setting=first["setting"],
        method=first["method"],
        seeds=len(done),
        complete=len(done) == seeds and not math.isnan(figure.mean),
        status=", ".join(counted),
        figure=figure,
        averages=_by_recall("average_", trials, done),
        forgetting=_by_recall("forgetting_", trials, done),
        shown=_shown([json.loads(row["shown"]) for row in done if row.get("shown")]),
        parameters=first["trainable_parameters"],
        parameters_per_task=first["trainable_parameters_per_task"],
        seconds=Spread.of([row["seconds"] for row in done]),
        seconds_per_task=Spread.of([row["seconds_per_task"] for row in done]),
        learning_rate=first["learning_rate"],
        overrides=tuple(first["overrides"]),
        values={names[key]: value for key, value in json.loads(first["values"]).items()},
        parent=first.get("parent"),
        forked_after=first.get("forked_after") or 0,
    )


def _by_recall(
    prefix: str, trials: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]
) -> dict[str, Spread]:
    """Of all recalls that the trials have columns of, whether or not one of them finished."""
    keys = [key for key in trials[0] if key.startswith(prefix)]
    return {key.removeprefix(prefix): Spread.of([row[key] for row in done]) for key in keys}


def _shown(found: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    return {
        title: Spread.of([row[title] for row in found]) for title in (found[0] if found else ())
    }


@dataclass(frozen=True)
class Column:
    """A column of the comparison: its header and a row's text under it."""

    header: str
    cell: Callable[[SettingRow, str], str]  # the row, and how plus-minus is written


def _spread(header: str, of: Callable[[SettingRow], Spread], digits: int = 1) -> Column:
    return Column(header, lambda row, plus_minus: of(row).text(plus_minus, digits))


RECALL_AT_1, FORGETTING = "R@1", "forgetting"  # in headers
SETTING = Column("setting", lambda row, _: row.title)
PARAMETERS = Column("parameters", lambda row, _: _count(row.parameters))
STREAM_COSTS = (
    Column("a task", lambda row, _: _count(row.parameters_per_task)),
    _spread("seconds a task", lambda row: row.seconds_per_task),
)
MODEL_COSTS = (_spread("seconds", lambda row: row.seconds),)
SEEDS = Column("seeds", lambda row, _: str(row.seeds) + (f" ({row.status})" if row.status else ""))


def _of_heading(title: str) -> Column:
    nothing = Spread.of([])
    return _spread(title, lambda row: row.shown.get(title, nothing))


def _recall_columns(recalls: Sequence[str]) -> list[Column]:
    """Averages of the recalls that lead, then forgetting."""
    return [
        *(_of_recall(RECALL_AT_1, lambda row: row.averages, recall) for recall in recalls),
        *(_of_recall(FORGETTING, lambda row: row.forgetting, recall) for recall in recalls),
    ]


def _of_recall(
    title: str, part: Callable[[SettingRow], Mapping[str, Spread]], recall: str
) -> Column:
    nothing = Spread.of([])
    return _spread(f"{direction_of(recall)} {title}", lambda row: part(row).get(recall, nothing))


def columns(measure: Measure, comparison: Comparison) -> tuple[Column, ...]:
    """Recall and forgetting for streams; for models, which have no averages, their figures."""
    titles = dict.fromkeys(title for row in comparison.rows for title in row.shown)
    if titles:
        return (SETTING, *map(_of_heading, titles), PARAMETERS, *MODEL_COSTS, SEEDS)
    if measure.kind == "stream":
        return (SETTING, *_recall_columns(comparison.headline), PARAMETERS, *STREAM_COSTS, SEEDS)
    figure = _spread(measure.title, lambda row: row.figure, digits=3)
    return (SETTING, figure, PARAMETERS, *MODEL_COSTS, SEEDS)


def cells(row: SettingRow, shown: Sequence[Column], plus_minus: str = " ± ") -> list[str]:
    """The texts of a row under the headers of `shown`."""
    return [column.cell(row, plus_minus) for column in shown]


def to_markdown(comparison: Comparison, measure: Measure) -> str:
    """The comparison as a Markdown table."""
    shown = columns(measure, comparison)
    headers = [column.header for column in shown]
    lines = ["| " + " | ".join(headers) + " |", "|---|" + "---:|" * (len(headers) - 1)]
    lines += ["| " + " | ".join(cells(row, shown)) + " |" for row in comparison.rows]
    return "\n".join(lines) + "\n"


def to_latex(comparison: Comparison, measure: Measure) -> str:
    """The comparison as a LaTeX table; it needs the package booktabs."""
    shown = columns(measure, comparison)
    alignment = "l" + "r" * (len(shown) - 1)
    body = [
        " & ".join(_latex(cell) for cell in cells(row, shown, plus_minus=r" $\pm$ ")) + r" \\"
        for row in comparison.rows
    ]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            " & ".join(_latex(column.header) for column in shown) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _plain(value: Any) -> str:
    """A value as YAML and Hydra write it."""
    return value if isinstance(value, str) else json.dumps(value)


def _latex(text: str) -> str:
    """Plain text in LaTeX; our own plus-minus stays."""
    escaped = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", DASH: "--"}
    return "".join(escaped.get(letter, letter) for letter in text)


def _count(number: int | None) -> str:
    return DASH if number is None else f"{number:,}"
