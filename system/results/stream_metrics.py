"""Summaries of a stream, one `StreamMetric` each, computed from the accuracy matrix of a recall.

R[i, j] is the recall on task j after training on task i, in percent, counted from 1 in formulas and
from 0 in code; Z[j] is the frozen model's (zero-shot). T is the last task learned. A summary that
needs an entry that is undefined or was not evaluated is undefined itself, with that entry's reason;
a task j without a query in the evaluated split is left out of all means over j.

With evaluation.gallery=seen galleries grow: R[i, j] is searched among the candidates of tasks 1..i
and of task j. Every difference to an earlier row then holds what the larger gallery costs any
model, the frozen one too. `FORGETTING` leaves out rows before task j was learned, whose galleries
are smaller still; `FORWARD_TRANSFER` takes Z[j] in the gallery of R[j - 1, j]; `TRANSFER` and
`STREAM_AVERAGE` join galleries of different sizes, so they compare runs of that gallery alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from system.results.accuracy_matrix import ZERO_SHOT, AccuracyMatrix, UndefinedEntryError


@dataclass(frozen=True)
class Summary:
    """A metric drawn from the matrix, or NaN with the reason why there is none."""

    value: float
    reason: str | None = None


@dataclass(frozen=True)
class Entries:
    """The entries of one recall's matrix, up to the last task learned."""

    matrix: AccuracyMatrix
    recall: str
    last: int

    @cached_property
    def _learned(self) -> NDArray[np.float64]:
        """R up to the last task, [T, K]."""
        rows = [self.matrix.values_after(self.recall, i) for i in range(self.last + 1)]
        return np.stack(rows)

    def at(self, trained: int, evaluated: int) -> float:
        """R[trained, evaluated]. Raises UndefinedEntryError."""
        return self.matrix.need(self.recall, trained, evaluated)

    def row(self, trained: int, evaluated: Sequence[int]) -> NDArray[np.float64]:
        """R[trained] of some tasks. Raises UndefinedEntryError with the first one's reason."""
        return self._defined(self._learned[trained, evaluated], lambda n: (trained, evaluated[n]))

    def column(self, trained: range, evaluated: int) -> NDArray[np.float64]:
        """R[:, evaluated] of some rows. Raises UndefinedEntryError with the first one's reason."""
        cut = self._learned[trained.start : trained.stop, evaluated].copy()
        return self._defined(cut, lambda n: (trained[n], evaluated))

    def _defined(
        self, values: NDArray[np.float64], place: Callable[[int], tuple[int, int]]
    ) -> NDArray[np.float64]:
        for n in np.flatnonzero(np.isnan(values))[:1].tolist():
            self.at(*place(n))
        return values

    def judged(self, tasks: Iterable[int]) -> list[int]:
        """Those of some tasks that the evaluated split has queries of; the others do not count.

        Raises UndefinedEntryError if none is left.
        """
        kept = [task for task in tasks if self.matrix.has_queries(self.recall, task)]
        if not kept:
            raise UndefinedEntryError(f"{self.recall}: no task has a query in the split")
        return kept

    def zero_shot_before(self, task: int) -> float:
        """Z of a task, in the gallery of R[task - 1, task]. Raises UndefinedEntryError."""
        return self.matrix.need_before(self.recall, task)

    def best_before(self, task: int, *, first: int) -> float:
        """The largest of R[first..last - 1, task], which must be complete from the task's own.

        Rows before the task's own do not count where galleries grow.
        """
        learned = self.column(range(task, self.last), task)
        first = task if self.matrix.galleries_grow else first
        earlier = self._learned[first:task, task]
        return float(np.concatenate([learned, earlier[~np.isnan(earlier)]]).max())


@dataclass(frozen=True)
class StreamMetric:
    """A summary of a recall over the whole stream.

    Attributes:
        name: its key in metrics.json.
        label: its heading.
        formula: how it is computed, with the legend of this module.
        reference: who defined it; for a name of the field, the paper.
        unit: "percent" for a recall, "points" for a difference of two.
        compute: its value of the entries.
        tasks: how many tasks must be learned before it means anything.
    """

    name: str
    label: str
    formula: str
    reference: str
    unit: Literal["percent", "points"]
    compute: Callable[[Entries], float]
    tasks: int = 1

    def of(self, matrix: AccuracyMatrix, recall: str) -> Summary:
        """The summary of a recall's matrix, or the reason why there is none."""
        if matrix.last_trained(recall) + 1 in range(1, self.tasks):
            return Summary(math.nan, f"{self.label} needs two tasks; one was learned")
        return _summary(matrix, recall, self.compute)


def retention(matrix: AccuracyMatrix, recall: str, evaluated: int) -> Summary:
    """What is left of the zero-shot value of what is never trained: R[T, j] - Z[j].

    Negative is lost. That loss is what ZSCL is about (Zheng et al., arXiv 2303.06628).
    """
    return _summary(matrix, recall, lambda r: r.at(r.last, evaluated) - r.at(ZERO_SHOT, evaluated))


def _summary(matrix: AccuracyMatrix, recall: str, compute: Callable[[Entries], float]) -> Summary:
    last = matrix.last_trained(recall)
    if last == ZERO_SHOT:
        reason = f"no task's training was followed by an evaluation of {recall}"
        return Summary(math.nan, reason)
    try:
        return Summary(compute(Entries(matrix, recall, last)))
    except UndefinedEntryError as undefined:
        return Summary(math.nan, str(undefined))


def _mean(values: Iterable[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values if isinstance(values, np.ndarray) else list(values)))


def _average(r: Entries) -> float:
    return _mean(r.row(r.last, r.judged(range(r.last + 1))))


def _stream_average(r: Entries) -> float:
    learned = range(r.last + 1)
    judged = r.judged(learned)
    return _mean(np.concatenate([r.row(i, judged) for i in learned]))


def _transfer(r: Entries) -> float:
    return _mean(_mean(r.column(range(j), j)) for j in r.judged(range(1, r.last + 1)))


def _forgetting(r: Entries) -> float:
    return _mean(r.best_before(j, first=0) - r.at(r.last, j) for j in r.judged(range(r.last)))


def _backward_transfer(r: Entries) -> float:
    return _mean(r.at(r.last, j) - r.at(j, j) for j in r.judged(range(r.last)))


def _forward_transfer(r: Entries) -> float:
    later = r.judged(range(1, r.last + 1))
    return _mean(r.at(j - 1, j) - r.zero_shot_before(j) for j in later)


def _published_average(r: Entries) -> float:
    learned = r.judged(range(r.last + 1))
    return _mean(_mean(r.column(range(j, r.last + 1), j)) for j in learned)


def _published_forgetting(r: Entries) -> float:
    return _mean(r.at(r.last, j) - r.best_before(j, first=j) for j in r.judged(range(r.last)))


_ZSCL = "ZSCL (Zheng et al., arXiv 2303.06628)"
_GEM = "GEM (Lopez-Paz and Ranzato, arXiv 1706.08840)"
_LPI = "LPI's released code"

AVERAGE = StreamMetric(
    "average",
    "Last",
    "mean over j of R[T, j]: every task once, at the end",
    f"Last of {_ZSCL}; ACC of {_GEM}",
    "percent",
    _average,
)
STREAM_AVERAGE = StreamMetric(
    "stream_average",
    "Avg",
    "mean over i and j of R[i, j]: every task after every task, those not learned yet too",
    f"Avg of {_ZSCL}",
    "percent",
    _stream_average,
)
TRANSFER = StreamMetric(
    "transfer",
    "Transfer",
    "for each j > 1 the mean over i < j of R[i, j], then the mean over j: tasks before they are "
    "learned, each counting alike",
    f"Transfer of {_ZSCL}",
    "percent",
    _transfer,
    tasks=2,
)
FORGETTING = StreamMetric(
    "forgetting",
    "Forgetting",
    "mean over j < T of max over i < T of R[i, j] - R[T, j]: positive is a loss; in growing "
    "galleries over i ≥ j alone",
    "Chaudhry et al., arXiv 1801.10112",
    "points",
    _forgetting,
    tasks=2,
)
BACKWARD_TRANSFER = StreamMetric(
    "backward_transfer",
    "BWT",
    "mean over j < T of R[T, j] - R[j, j]: negative is a loss",
    _GEM,
    "points",
    _backward_transfer,
    tasks=2,
)
FORWARD_TRANSFER = StreamMetric(
    "forward_transfer",
    "FWT",
    "mean over j > 1 of R[j - 1, j] - Z[j]: what earlier tasks did for a task before it was "
    "learned; GEM subtracts a random initialisation, here it is the frozen model, zero-shot",
    _GEM,
    "points",
    _forward_transfer,
    tasks=2,
)
PUBLISHED_AVERAGE = StreamMetric(
    "published_average",
    "Average, as LPI's code",
    "for each j the mean over i ≥ j of R[i, j], then the mean over j: early high values stay in it",
    _LPI,
    "percent",
    _published_average,
)
PUBLISHED_FORGETTING = StreamMetric(
    "published_forgetting",
    "Forgetting, as LPI's code",
    "mean over j < T of R[T, j] - max over j ≤ i < T of R[i, j]: negative is a loss",
    _LPI,
    "points",
    _published_forgetting,
    tasks=2,
)
#: In the order of tables.
STREAM_METRICS = (
    AVERAGE,
    STREAM_AVERAGE,
    TRANSFER,
    FORGETTING,
    BACKWARD_TRANSFER,
    FORWARD_TRANSFER,
    PUBLISHED_AVERAGE,
    PUBLISHED_FORGETTING,
)


@dataclass(frozen=True)
class CombinedMetric:
    """One number of the six recalls of retrieval: at 1, 5 and 10, in both directions.

    Attributes:
        name: its key in metrics.json.
        label: its heading.
        formula: how it is computed.
        reference: who reports it.
        compute: its value of the six.
    """

    name: str
    label: str
    formula: str
    reference: str
    compute: Callable[[Sequence[float]], float]

    #: The recalls that are combined.
    RECALLS = tuple(f"{direction}_r{k}" for direction in ("t2i", "i2t") for k in (1, 5, 10))

    def of(self, summaries: Mapping[str, Summary]) -> Summary:
        """The combination of summaries by recall, or the reason of the first undefined one."""
        six = [summaries[recall] for recall in self.RECALLS]
        reason = next((one.reason for one in six if one.reason is not None), None)
        if reason is not None:
            return Summary(math.nan, reason)
        return Summary(self.compute([one.value for one in six]))


RSUM = CombinedMetric(
    "rsum",
    "Rsum",
    "sum of R@1, R@5 and R@10 of both directions, at most 600",
    "the released code of VSE++ (Faghri et al., arXiv 1707.05612)",
    math.fsum,
)
R_MEAN = CombinedMetric(
    "r_mean",
    "R mean",
    "mean of R@1, R@5 and R@10 of both directions: a sixth of Rsum",
    "r_mean of the released code of ALBEF (Li et al., arXiv 2107.07651)",
    _mean,
)
COMBINED = (RSUM, R_MEAN)
