"""The accuracy matrix R and the metrics drawn from it.

R[i, j] is a metric on task j after training on task i, in percent, higher is better. The matrix is
full: tasks are also evaluated before they are learned. Row -1 is the frozen backbone (zero-shot).
An undefined value is NaN with a reason, never 0.

Legend: K tasks, E what is evaluated (the K tasks, or held out), T the last task learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.results.metrics import MetricValue

ROUTE = "route_"  # how the names of routing accuracies begin
ZERO_SHOT = -1  # trained_index of the evaluation before any task was learned


@dataclass(frozen=True)
class MatrixRow:
    """One entry of the matrix: a metric on one task after training on another (-1: on none)."""

    trained_index: int
    evaluated_index: int
    metric: str
    value: float
    queries: int
    reason: str | None = None


@dataclass(frozen=True)
class Summary:
    """A metric drawn from the matrix, or NaN with the reason why there is none."""

    value: float
    reason: str | None = None


class _UndefinedError(Exception):
    """An entry that a metric needs is undefined; the text is the reason."""


def matrix_rows(
    trained_index: int, values: Mapping[str, Mapping[int, MetricValue]]
) -> list[MatrixRow]:
    """The rows of one evaluation: metric -> evaluated task -> value, after `trained_index`."""
    return [
        MatrixRow(trained_index, task, metric, value.value, value.queries, value.reason)
        for metric, per_task in values.items()
        for task, value in per_task.items()
    ]


class AccuracyMatrix:
    """All entries of a run, for every metric, and the summaries of the field and of the paper.

    Args:
        tasks: names of the K tasks in order.
        rows: entries in any order, at most one a (trained, evaluated, metric).
        evaluated: names of what is evaluated, where that is not the tasks but held out: R is then
            [K, E], and has no summaries over tasks.

    Raises:
        DataError: an entry appears twice or names a task that does not exist.
    """

    def __init__(
        self,
        tasks: Iterable[str],
        rows: Iterable[MatrixRow] = (),
        evaluated: Iterable[str] | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        self.held_out = evaluated is not None
        self.evaluated = self.tasks if evaluated is None else tuple(evaluated)
        self.rows = tuple(rows)
        self._entries: dict[tuple[str, int, int], MatrixRow] = {}
        for row in self.rows:
            self._enter(row)

    def with_rows(self, rows: Iterable[MatrixRow]) -> AccuracyMatrix:
        """A matrix that also holds `rows`."""
        evaluated = self.evaluated if self.held_out else None
        return AccuracyMatrix(self.tasks, (*self.rows, *rows), evaluated)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order in which they first appear."""
        return tuple(dict.fromkeys(row.metric for row in self.rows))

    @property
    def recalls(self) -> tuple[str, ...]:
        """The metrics that are recalls: all but the accuracies of the router."""
        return tuple(metric for metric in self.metrics if not metric.startswith(ROUTE))

    def values(self, metric: str) -> NDArray[np.float64]:
        """R of a metric, [K, E], NaN where it is undefined or was not evaluated."""
        size = len(self.tasks), len(self.evaluated)
        values = [[self._value(metric, i, j) for j in range(size[1])] for i in range(size[0])]
        return np.array(values, dtype=np.float64).reshape(size)

    def zero_shot(self, metric: str) -> NDArray[np.float64]:
        """The frozen backbone's metric on each task, [E], NaN where there is none."""
        return np.array([self._value(metric, ZERO_SHOT, j) for j in range(len(self.evaluated))])

    def average(self, metric: str) -> Summary:
        """Mean of R's last row over the tasks learned."""

        def compute(last: int) -> float:
            return _mean(self._need(metric, last, j) for j in range(last + 1))

        return self._summary(metric, compute)

    def forgetting(self, metric: str) -> Summary:
        """Mean over j < T of max_{i < T} R[i, j] - R[T, j]; positive is bad.

        The maximum is over all earlier rows, also those before task j was learned, where it was
        evaluated then (Chaudhry et al., arXiv 1801.10112).
        """

        def compute(last: int) -> float:
            return _mean(
                self._best_before(metric, j, last, first=0) - self._need(metric, last, j)
                for j in range(last)
            )

        return self._summary(metric, compute, needs_two="forgetting")

    def forward_transfer(self, metric: str) -> Summary:
        """Mean over j >= 1 of R[j-1, j] less the zero-shot value; positive is good."""

        def compute(last: int) -> float:
            return _mean(
                self._need(metric, j - 1, j) - self._need(metric, ZERO_SHOT, j)
                for j in range(1, last + 1)
            )

        return self._summary(metric, compute, needs_two="forward transfer")

    def retention(self, metric: str, evaluated: int) -> Summary:
        """What is left of the zero-shot value: R[T, j] less it; negative is lost.

        Of what is never trained: the loss that ZSCL is about (Zheng et al., arXiv 2303.06628).
        """

        def compute(last: int) -> float:
            return self._need(metric, last, evaluated) - self._need(metric, ZERO_SHOT, evaluated)

        return self._summary(metric, compute)

    def published_average(self, metric: str) -> Summary:
        """LPI's average: each task's mean since it was learned, then the mean over tasks."""

        def compute(last: int) -> float:
            return _mean(
                _mean(self._need(metric, i, j) for i in range(j, last + 1)) for j in range(last + 1)
            )

        return self._summary(metric, compute)

    def published_forgetting(self, metric: str) -> Summary:
        """LPI's forgetting: mean over j < T of R[T, j] - max_{j<=i<T} R[i, j]; negative is bad."""

        def compute(last: int) -> float:
            return _mean(
                self._need(metric, last, j) - self._best_before(metric, j, last, first=j)
                for j in range(last)
            )

        return self._summary(metric, compute, needs_two="forgetting")

    def to_records(self) -> list[dict[str, Any]]:
        """One mapping an entry, as accuracy_matrix.parquet has its rows."""
        return [
            {
                "trained_index": row.trained_index,
                "trained_task": None
                if row.trained_index == ZERO_SHOT
                else self.tasks[row.trained_index],
                "evaluated_index": row.evaluated_index,
                "evaluated_task": self.evaluated[row.evaluated_index],
                "metric": row.metric,
                "value": row.value,
                "reason": row.reason,
                "queries": row.queries,
                "held_out": self.evaluated[row.evaluated_index] if self.held_out else None,
            }
            for row in self.rows
        ]

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]], *, held_out: bool = False
    ) -> AccuracyMatrix:
        """The matrix that `to_records` gave: the stream's, or that of `held_out` benchmarks.

        Raises:
            DataError: the records leave out or rename a task.
        """
        records = list(records)
        tasks, evaluated = _Names(), _Names()
        for record in records:
            tasks.add(record["trained_index"], record["trained_task"])
            beside = record.get("held_out") is not None
            (evaluated if beside else tasks).add(
                record["evaluated_index"], record["evaluated_task"]
            )
        fields = ("trained_index", "evaluated_index", "metric", "value", "queries", "reason")
        rows = [
            MatrixRow(**{field: record[field] for field in fields})
            for record in records
            if (record.get("held_out") is not None) == held_out
        ]
        return cls(tasks.in_order(), rows, evaluated.in_order() if held_out else None)

    def _enter(self, row: MatrixRow) -> None:
        size, width = len(self.tasks), len(self.evaluated)
        if not (ZERO_SHOT <= row.trained_index < size and 0 <= row.evaluated_index < width):
            raise DataError(
                f"accuracy matrix entry ({row.trained_index}, {row.evaluated_index}) is outside "
                f"the {size} tasks"
            )
        key = (row.metric, row.trained_index, row.evaluated_index)
        if key in self._entries:
            raise DataError(
                f"accuracy matrix has {row.metric} on task {row.evaluated_index} after task "
                f"{row.trained_index} twice"
            )
        self._entries[key] = row

    def _value(self, metric: str, trained: int, evaluated: int) -> float:
        row = self._entries.get((metric, trained, evaluated))
        return math.nan if row is None else row.value

    def _need(self, metric: str, trained: int, evaluated: int) -> float:
        """An entry that a summary cannot do without."""
        value = self._value(metric, trained, evaluated)
        if math.isnan(value):
            row = self._entries.get((metric, trained, evaluated))
            why = (row.reason or "undefined") if row else "not evaluated"
            when = "zero-shot" if trained == ZERO_SHOT else f"after {self.tasks[trained]!r}"
            raise _UndefinedError(f"{metric} on {self.evaluated[evaluated]!r} {when}: {why}")
        return value

    def _best_before(self, metric: str, task: int, last: int, *, first: int) -> float:
        """Largest entry of a task in rows first..last-1, complete since it was learned."""
        learned = [self._need(metric, i, task) for i in range(task, last)]
        earlier = [self._value(metric, i, task) for i in range(first, task)]
        return max(learned + [value for value in earlier if not math.isnan(value)])

    def _summary(
        self, metric: str, compute: Callable[[int], float], *, needs_two: str | None = None
    ) -> Summary:
        """`compute` of the last learned task's index, or the reason why it cannot be had."""
        learned = [row.trained_index for row in self.rows if row.metric == metric]
        last = max(learned, default=ZERO_SHOT)
        if last == ZERO_SHOT:
            return Summary(
                math.nan, f"no task's training was followed by an evaluation of {metric}"
            )
        if needs_two and last == 0:
            return Summary(math.nan, f"{needs_two} needs two tasks; one was learned")
        try:
            return Summary(compute(last))
        except _UndefinedError as undefined:
            return Summary(math.nan, str(undefined))


class _Names:
    """Names of tasks by their index, as records give them."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def add(self, index: int, name: str) -> None:
        if index != ZERO_SHOT and self._names.setdefault(index, name) != name:
            raise DataError(
                f"accuracy matrix names task {index} both {self._names[index]!r} and {name!r}"
            )

    def in_order(self) -> list[str]:
        if sorted(self._names) != list(range(len(self._names))):
            raise DataError(f"accuracy matrix leaves out tasks: it has only {sorted(self._names)}")
        return [self._names[index] for index in range(len(self._names))]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
