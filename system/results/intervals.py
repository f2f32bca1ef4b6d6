"""Bootstrap intervals of averages over tasks, from what each test query found.

An average is the mean over tasks of the mean over a task's queries. A resampled test set draws of
each task as many images as it has, with replacement, each with all its queries: captions of one
image, in either direction, and expressions about one image are no independent samples. The interval
holds the middle 95 % of the averages (percentile bootstrap, Efron 1979). It says what another
test set of this size might have given, not what another training might: for that there are seeds.

Legend: Q queries, M metrics, U images of a task, B resampled test sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.results.metrics import Metric

RESAMPLES = 2000
SEED = 0  # of the draws: the same data has the same interval
LEVEL = 95  # percent
_DRAWS_AT_ONCE = 4_000_000  # indices in memory

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of an average over resampled test sets."""

    low: float
    high: float


@dataclass(frozen=True)
class Queries:
    """What each test query of one phase of a run found.

    Attributes:
        keys: (Q,) text that names the query among all runs on the same test splits.
        directions: (Q,) who searches, as `Metric.direction`.
        tasks: (Q,) number of the task whose mean the query counts in.
        units: (Q,) text that names its image.
        columns: (Q,) ranks and the like by column of ranks.parquet; NaN where there is none.
    """

    keys: NDArray[np.str_]
    directions: NDArray[np.str_]
    tasks: NDArray[np.int64]
    units: NDArray[np.str_]
    columns: Mapping[str, Floats]

    def values(self, metrics: Sequence[Metric]) -> Floats:
        """(Q, M) each query's value in percent; NaN where it does not count in the metric."""
        return np.stack([self._values(metric) for metric in metrics], axis=1)

    def _values(self, metric: Metric) -> Floats:
        found = self.columns[metric.column]
        if metric.of == "average precision":
            values = 100.0 * found
        else:  # nothing found is NaN, which is no hit
            hit = np.isfinite(found) if metric.k is None else found <= metric.k
            values = np.where(hit, 100.0, 0.0)
        return np.where(self.directions == metric.direction, values, np.nan)


def average(values: Floats, tasks: NDArray[np.int64]) -> Floats:
    """(M,) mean over tasks of the mean of each task's values (Q, M), of which NaN do not count."""
    means = np.stack([np.nanmean(values[tasks == task], axis=0) for task in np.unique(tasks)])
    found: Floats = means.mean(axis=0)
    return found


def resampled_averages(
    values: Floats,
    tasks: NDArray[np.int64],
    units: NDArray[np.str_],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Floats:
    """(B, M) `average` of resampled test sets; columns of one set are of the same drawn images."""
    rng = np.random.default_rng(seed)
    present = np.unique(tasks)
    total = np.zeros((resamples, values.shape[1]))
    for task in present:
        mine = tasks == task
        _, unit = np.unique(units[mine], return_inverse=True)
        counts = np.zeros((unit.max() + 1, values.shape[1]))
        sums = np.zeros_like(counts)
        np.add.at(counts, unit, np.isfinite(values[mine]))
        np.add.at(sums, unit, np.nan_to_num(values[mine]))
        total += _resampled_means(sums, counts, resamples, rng)
    return total / len(present)


def _resampled_means(
    sums: Floats, counts: Floats, resamples: int, rng: np.random.Generator
) -> Floats:
    """(B, M) means over a task's queries, from sums and counts (U, M) of its images."""
    size = len(sums)
    parts = []
    step = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        parts.append((times @ sums) / (times @ counts))
    return np.concatenate(parts)


def interval(averages: Floats) -> Interval:
    """The interval of resampled averages (B,)."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(averages, [tail, 100 - tail])
    return Interval(float(low), float(high))
