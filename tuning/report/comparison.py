"""Trial configs side by side: means and standard deviations over seeds, ranked by score."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from system.report.formatting import DASH
from system.report.metrics_view import headline_metrics
from system.storage.foreign_json import parse_json
from tuning.report.certainty import NOT_KNOWN, Certainty
from tuning.search.sweep_config import counted


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation over seeds; NaN where undefined."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "MeanStd":
        """Over all values; undefined if one of them is. One value has no standard deviation."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return cls(math.nan, math.nan)
        mean = sum(known) / len(known)
        if len(known) == 1:
            return cls(mean, math.nan)
        return cls(mean, math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1)))

    def text(self, plus_minus: str = " ± ", digits: int = 1) -> str:
        """`24.9 ± 0.3`; of one seed the mean alone."""
        if math.isnan(self.mean):
            return DASH
        mean = f"{round(self.mean, digits) + 0.0:.{digits}f}"  # never -0.0
        return mean if math.isnan(self.std) else f"{mean}{plus_minus}{self.std:.{digits}f}"


@dataclass(frozen=True)
class ConfigRow:
    """A trial config over the seeds that finished."""

    label: str
    method: str
    seeds: int
    complete: bool  # finished with all of the sweep's seeds, and with a score
    status: str  # of the seeds that did not finish, such as `1 failed`
    score: MeanStd
    averages: Mapping[str, MeanStd]
    forgetting: Mapping[str, MeanStd]
    stage_columns: Mapping[str, MeanStd]  # by heading, for stages that compare methods
    parameters: int | None
    parameters_per_task: int | None
    seconds: MeanStd
    seconds_per_task: MeanStd
    learning_rate: float | None
    overrides: tuple[str, ...]
    values: Mapping[str, Any]  # from the search space, by short names
    parent: str | None = None  # label of the trial config whose first tasks a fork inherits
    forked_after: int = 0
    sharing: str | None = None  # "own", "shared" or "frozen" parameters, of methods in a stream

    @property
    def values_text(self) -> str:
        """The values in one line."""
        return ", ".join(f"{name}={_plain(value)}" for name, value in self.values.items())

    @property
    def lineage(self) -> str:
        """The start of a fork, in one line; empty for other trial configs."""
        return f"from {self.parent} after {counted(self.forked_after)}" if self.parent else ""

    @property
    def title(self) -> str:
        """Label, values and lineage, for tables."""
        details = "; ".join(filter(None, (self.values_text, self.lineage)))
        return f"{self.label}: {details}" if details else self.label


@dataclass(frozen=True)
class Comparison:
    """All trial configs: first those that finished with all seeds, each group by score.

    `best` is the label of the first one, None if it did not finish with all seeds; `certainty` is
    of streams alone.
    """

    rows: tuple[ConfigRow, ...]
    best: str | None
    certainty: Certainty = NOT_KNOWN

    @property
    def headline(self) -> tuple[str, ...]:
        """The recalls that tables show; empty for models, whose metrics have other names."""
        return headline_metrics({recall for row in self.rows for recall in row.averages})


def compare(trials: Sequence[Mapping[str, Any]], seeds: int) -> Comparison:
    """Group the rows of trials.parquet by trial config; each has one trial for each of `seeds`."""
    labels = dict.fromkeys(row["setting"] for row in trials)
    names = short_names([key for row in trials for key in parse_json(row["values"])])
    rows = [_row([r for r in trials if r["setting"] == label], names, seeds) for label in labels]

    def rank(row: ConfigRow) -> tuple[bool, float]:
        score = row.score.mean
        return not row.complete, math.inf if math.isnan(score) else -score

    rows.sort(key=rank)
    best = rows[0].label if rows and rows[0].complete else None
    return Comparison(tuple(rows), best)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest unambiguous ending of each dotted key."""
    names: dict[str, str] = {}
    for key in dict.fromkeys(keys):
        parts = key.split(".")
        ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        others = [other for other in keys if other != key]
        names[key] = next(
            (e for e in ends if not any(o == e or o.endswith(f".{e}") for o in others)), key
        )
    return names


def _row(trials: Sequence[Mapping[str, Any]], names: Mapping[str, str], seeds: int) -> ConfigRow:
    done = [row for row in trials if row["status"] == "finished"]
    others = [row["status"] for row in trials if row["status"] != "finished"]
    first = (done or trials)[0]
    score = MeanStd.of([row["figure"] for row in done])
    statuses = [f"{others.count(status)} {status}" for status in dict.fromkeys(others)]
    return ConfigRow(
        label=first["setting"],
        method=first["method"],
        seeds=len(done),
        complete=len(done) == seeds and not math.isnan(score.mean),
        status=", ".join(statuses),
        score=score,
        averages=_by_recall("average_", trials, done),
        forgetting=_by_recall("forgetting_", trials, done),
        stage_columns=_stage_columns(done),
        parameters=first["trainable_parameters"],
        parameters_per_task=first["trainable_parameters_per_task"],
        seconds=MeanStd.of([row["seconds"] for row in done]),
        seconds_per_task=MeanStd.of([row["seconds_per_task"] for row in done]),
        learning_rate=first["learning_rate"],
        overrides=tuple(first["overrides"]),
        values={names[key]: value for key, value in parse_json(first["values"]).items()},
        parent=first.get("parent"),
        forked_after=first.get("forked_after") or 0,
        sharing=first.get("sharing"),
    )


def _by_recall(
    prefix: str, trials: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]
) -> dict[str, MeanStd]:
    """Of all recalls that trials.parquet has columns of, also where no trial finished."""
    keys = [key for key in trials[0] if key.startswith(prefix)]
    return {key.removeprefix(prefix): MeanStd.of([row[key] for row in done]) for key in keys}


def _stage_columns(done: Sequence[Mapping[str, Any]]) -> dict[str, MeanStd]:
    found = [parse_json(row["shown"]) for row in done if row.get("shown")]
    titles = found[0] if found else ()
    return {title: MeanStd.of([row[title] for row in found]) for title in titles}


def _plain(value: Any) -> str:
    """A value as written in YAML and in Hydra overrides."""
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class CommonScores:
    """Scores at which all trial configs can be compared, though some were stopped early.

    Attributes:
        tasks: the number of tasks that all of them finished, after which the scores are taken.
        by_config: label -> score; without those that failed or are evaluated at the end only.
    """

    tasks: int
    by_config: Mapping[str, float]


def common_scores(trials: Sequence[Mapping[str, Any]]) -> CommonScores:
    """The common scores of the rows of trials.parquet.

    Means are over the seeds that all trial configs were tried with: seeds differ in difficulty.
    """
    begun = [trial for trial in trials if trial["figure_by_task"]]
    seeds: dict[str, set[int]] = {}
    for trial in begun:
        seeds.setdefault(trial["setting"], set()).add(trial["seed"])
    common = set.intersection(*seeds.values()) if seeds else set()
    compared = [trial for trial in begun if trial["seed"] in common]
    if not compared:
        return CommonScores(0, {})
    tasks = min(len(trial["figure_by_task"]) for trial in compared)
    scores: dict[str, list[float | None]] = {}
    for trial in compared:
        scores.setdefault(trial["setting"], []).append(trial["figure_by_task"][tasks - 1])
    means = {
        label: sum(known) / len(known)
        for label, values in scores.items()
        if len(known := [value for value in values if value is not None]) == len(values)
    }
    return CommonScores(tasks, means)
