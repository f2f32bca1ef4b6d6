"""Settings side by side: means and spreads over seeds, as Markdown and LaTeX."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from system.report.shown import DASH
from system.storage.results import RECALLS


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

    def text(self, plus_minus: str = " ± ") -> str:
        """Such as `24.9 ± 0.3`; the mean alone of one seed."""
        if math.isnan(self.mean):
            return DASH
        mean = f"{round(self.mean, 1) + 0.0:.1f}"  # never -0.0
        return mean if math.isnan(self.std) else f"{mean}{plus_minus}{self.std:.1f}"


@dataclass(frozen=True)
class SettingRow:
    """A setting over its finished seeds; `status` says what became of the others."""

    setting: str
    method: str
    seeds: int
    status: str
    recall: Spread
    averages: Mapping[str, Spread]
    forgetting: Mapping[str, Spread]
    parameters: int | None
    parameters_per_task: int | None
    seconds_per_task: Spread
    learning_rate: float | None
    overrides: tuple[str, ...]
    values: Mapping[str, Any]  # what was drawn, by short names

    @property
    def title(self) -> str:
        """The setting with its values, for tables."""
        shown = ", ".join(f"{name}={_plain(value)}" for name, value in self.values.items())
        return f"{self.setting}: {shown}" if shown else self.setting


@dataclass(frozen=True)
class Comparison:
    """All settings, those that finished with all seeds first and by recall; `best` heads them."""

    rows: tuple[SettingRow, ...]
    best: str | None


def compare(trials: Sequence[Mapping[str, Any]], seeds: int) -> Comparison:
    """Put the rows of trials.parquet together by setting; each has as many trials as `seeds`."""
    labels = dict.fromkeys(row["setting"] for row in trials)
    names = short_names([key for row in trials for key in json.loads(row["values"])])
    rows = [_setting([r for r in trials if r["setting"] == label], names) for label in labels]

    def rank(row: SettingRow) -> tuple[bool, float]:
        whole = row.seeds == seeds and not math.isnan(row.recall.mean)
        return not whole, -row.recall.mean if not math.isnan(row.recall.mean) else math.inf

    rows.sort(key=rank)
    first = rows[0] if rows else None
    best = first.setting if first is not None and not rank(first)[0] else None
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


def _setting(trials: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> SettingRow:
    done = [row for row in trials if row["status"] == "finished"]
    others = [row["status"] for row in trials if row["status"] != "finished"]
    first = (done or trials)[0]
    counted = [f"{others.count(status)} {status}" for status in dict.fromkeys(others)]
    return SettingRow(
        setting=first["setting"],
        method=first["method"],
        seeds=len(done),
        status=", ".join(counted),
        recall=Spread.of([row["recall"] for row in done]),
        averages={m: Spread.of([row.get(f"average_{m}") for row in done]) for m in RECALLS},
        forgetting={m: Spread.of([row.get(f"forgetting_{m}") for row in done]) for m in RECALLS},
        parameters=first["trainable_parameters"],
        parameters_per_task=first["trainable_parameters_per_task"],
        seconds_per_task=Spread.of([row["seconds_per_task"] for row in done]),
        learning_rate=first["learning_rate"],
        overrides=tuple(first["overrides"]),
        values={names[key]: value for key, value in json.loads(first["values"]).items()},
    )


HEADERS = (
    "setting",
    "t2i R@1",
    "i2t R@1",
    "t2i forgetting",
    "i2t forgetting",
    "parameters",
    "a task",
    "seconds a task",
    "seeds",
)


def cells(row: SettingRow, plus_minus: str = " ± ") -> list[str]:
    """The texts of a row under `HEADERS`."""
    seeds = str(row.seeds) + (f" ({row.status})" if row.status else "")
    return [
        row.title,
        row.averages["t2i_r1"].text(plus_minus=plus_minus),
        row.averages["i2t_r1"].text(plus_minus=plus_minus),
        row.forgetting["t2i_r1"].text(plus_minus=plus_minus),
        row.forgetting["i2t_r1"].text(plus_minus=plus_minus),
        _count(row.parameters),
        _count(row.parameters_per_task),
        row.seconds_per_task.text(plus_minus=plus_minus),
        seeds,
    ]


def to_markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown table."""
    lines = ["| " + " | ".join(HEADERS) + " |", "|---|" + "---:|" * (len(HEADERS) - 1)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in comparison.rows]
    return "\n".join(lines) + "\n"


def to_latex(comparison: Comparison) -> str:
    """The comparison as a LaTeX table; it needs the package booktabs."""
    columns = "l" + "r" * (len(HEADERS) - 1)
    body = [
        " & ".join(_latex(cell) for cell in cells(row, plus_minus=r" $\pm$ ")) + r" \\"
        for row in comparison.rows
    ]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(_latex(header) for header in HEADERS) + r" \\",
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
