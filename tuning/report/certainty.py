"""How sure a comparison is: intervals of averages, and paired differences on the same test queries.

A trial config's value of a query is its mean over seeds; test sets are resampled as in
`system.results.intervals`. A difference is taken query by query, over the seeds that both trial
configs finished with, so that queries which are hard for everyone cancel out. Neither says what
other seeds might have given: for that there is the standard deviation over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from system.report.formatting import DASH, bracketed, signed
from system.results.intervals import Floats, Queries, average, interval, resampled_averages
from system.storage.files import Folder
from system.storage.run_directory import RANKS
from system.stream.found_ranks import METRICS, queries_of

NO_RANKS = f"no {RANKS}: an earlier version trained it; train it again under another run_name"
OTHER_QUERIES = "judged on other test queries than"


@dataclass(frozen=True)
class RecallCertainty:
    """A recall of one trial config, in percent, with the ends of its 95 % intervals.

    The difference to the base is in points; None for the base itself, and where there is none.
    """

    queries: int
    average: float
    ends: tuple[float, float]
    difference: float | None = None
    difference_ends: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """`24.9 [23.1, 26.8]`."""
        return f"{self.average:.1f} {bracketed(self.ends)}"

    @property
    def difference_text(self) -> str:
        """The difference with its interval, signed."""
        if self.difference is None:
            return DASH
        return f"{signed(self.difference)} {bracketed(self.difference_ends, sign=True)}"


@dataclass(frozen=True)
class Certainty:
    """Of all trial configs that finished: label -> recall -> what is known of it.

    `base` is the label that others are compared with; `missing` says why a label has nothing.
    """

    base: str | None = None
    configs: Mapping[str, Mapping[str, RecallCertainty]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As intervals.json has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Certainty":
        """What `to_json` gave."""
        configs = {
            label: {recall: _read(found) for recall, found in recalls.items()}
            for label, recalls in content["configs"].items()
        }
        return cls(content["base"], configs, content["missing"])


NOT_KNOWN = Certainty()


def _read(found: Mapping[str, Any]) -> RecallCertainty:
    pairs = {key: found[key] and tuple(found[key]) for key in ("ends", "difference_ends")}
    return RecallCertainty(**{**found, **pairs})


def certainty_of(
    folders: Mapping[str, Mapping[int, Folder]], recalls: Sequence[str], base: str | None
) -> Certainty:
    """The certainty of trial configs.

    Args:
        folders: label -> seed -> the directory of a finished trial.
        recalls: names of the metrics.
        base: the label that others are compared with; None, or one without ranks: no differences.
    """
    found: dict[str, _ConfigValues] = {}
    missing: dict[str, str] = {}
    for label, seeds in folders.items():
        if not seeds or not all(folder.exists(RANKS) for folder in seeds.values()):
            missing[label] = NO_RANKS
            continue
        values = _values(seeds, recalls)
        if values is None:
            missing[label] = f"its seeds were {OTHER_QUERIES} each other"
        else:
            found[label] = values
    reference = found.get(base) if base is not None else None
    configs: dict[str, Mapping[str, RecallCertainty]] = {}
    for label, values in found.items():
        other = reference if label != base else None
        if other is not None and not np.array_equal(values.queries.keys, other.queries.keys):
            missing[label] = f"{OTHER_QUERIES} {base}: no difference"
            other = None
        configs[label] = _certainty(values, other, recalls)
    return Certainty(base if reference is not None else None, configs, missing)


@dataclass(frozen=True)
class _ConfigValues:
    """One trial config's values (Q, M) of all queries, by seed."""

    queries: Queries
    by_seed: Mapping[int, Floats]


def _values(seeds: Mapping[int, Folder], recalls: Sequence[str]) -> _ConfigValues | None:
    """None where the seeds do not share their queries."""
    metrics = [METRICS[recall] for recall in recalls]
    read = {seed: queries_of(folder.read_table(RANKS), "after") for seed, folder in seeds.items()}
    first = next(iter(read.values()))
    if not all(np.array_equal(queries.keys, first.keys) for queries in read.values()):
        return None
    return _ConfigValues(first, {seed: queries.values(metrics) for seed, queries in read.items()})


def _certainty(
    values: _ConfigValues, base: _ConfigValues | None, recalls: Sequence[str]
) -> dict[str, RecallCertainty]:
    queries, count = values.queries, len(recalls)
    own: Floats = np.mean(list(values.by_seed.values()), axis=0)
    columns = [own]
    common = sorted(set(values.by_seed) & set(base.by_seed)) if base else []
    if base is not None and common:
        columns.append(np.mean([values.by_seed[s] - base.by_seed[s] for s in common], axis=0))
    every = np.concatenate(columns, axis=1)  # of one draw of images each
    means = average(every, queries.tasks)
    drawn = resampled_averages(every, queries.tasks, queries.units)
    ends = [(found.low, found.high) for found in map(interval, drawn.T)]
    return {
        recall: RecallCertainty(
            int(np.isfinite(own[:, place]).sum()),
            float(means[place]),
            ends[place],
            *((float(means[count + place]), ends[count + place]) if len(columns) > 1 else ()),
        )
        for place, recall in enumerate(recalls)
    }
