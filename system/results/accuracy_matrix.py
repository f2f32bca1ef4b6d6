"""The accuracy matrix R of a stream.

R[i, j] is a metric on task j after training on task i, in percent, higher is better. The matrix is
full: tasks are also evaluated before they are learned. Row -1 is the frozen backbone (zero-shot).
An undefined value is NaN with a reason, never 0.

Legend: K tasks, E what is evaluated (the K tasks, or held out).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
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


class UndefinedEntryError(Exception):
    """An entry that a summary needs is undefined; the text is the reason."""


def matrix_rows(
    trained_index: int, values: Mapping[str, Mapping[int, MetricValue]]
) -> list[MatrixRow]:
    """The rows of one evaluation: metric -> evaluated task -> value, after `trained_index`."""
    return [
        MatrixRow(trained_index, task, metric, value.value, value.queries, value.reason)
        for metric, per_task in values.items()
        for task, value in per_task.items()
    ]


def plain_row(row: MatrixRow) -> dict[str, Any]:
    """A matrix row as JSON can hold it: an undefined value is null."""
    values = asdict(row)
    return values | {"value": None if math.isnan(row.value) else row.value}


class AccuracyMatrix:
    """All entries of a run, for every metric; `system.results.stream_metrics` sums them up.

    Args:
        tasks: names of the K tasks in order.
        rows: entries in any order, at most one a (trained, evaluated, metric).
        evaluated: names of what is evaluated, where that is not the tasks but held out: R is then
            [K, E], and has no summaries over tasks.
        before: where galleries grow with the tasks, the frozen model's entry on each task in the
            gallery that it has right before the task is learned; None: all galleries are alike.

    Raises:
        DataError: an entry appears twice or names a task that does not exist.
    """

    def __init__(
        self,
        tasks: Iterable[str],
        rows: Iterable[MatrixRow] = (),
        evaluated: Iterable[str] | None = None,
        before: Iterable[MatrixRow] | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        self.held_out = evaluated is not None
        self.evaluated = self.tasks if evaluated is None else tuple(evaluated)
        self.rows = tuple(rows)
        self._before: dict[tuple[str, int], MatrixRow] | None = None
        if before is not None:
            self._before = {(row.metric, row.evaluated_index): row for row in before}
        self._entries: dict[tuple[str, int, int], MatrixRow] = {}
        self._queries: dict[tuple[str, int], int] = {}
        for row in self.rows:
            self._enter(row)

    def with_rows(self, rows: Iterable[MatrixRow]) -> AccuracyMatrix:
        """A matrix that also holds `rows`."""
        evaluated = self.evaluated if self.held_out else None
        before = None if self._before is None else self._before.values()
        return AccuracyMatrix(self.tasks, (*self.rows, *rows), evaluated, before)

    @property
    def galleries_grow(self) -> bool:
        """Whether a query searches the more, the more tasks were learned."""
        return self._before is not None

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
        values = [[self.value(metric, i, j) for j in range(size[1])] for i in range(size[0])]
        return np.array(values, dtype=np.float64).reshape(size)

    def zero_shot(self, metric: str) -> NDArray[np.float64]:
        """The frozen backbone's metric on each task, [E], NaN where there is none."""
        return np.array([self.value(metric, ZERO_SHOT, j) for j in range(len(self.evaluated))])

    def value(self, metric: str, trained: int, evaluated: int) -> float:
        """An entry, NaN where it is undefined or was not evaluated."""
        row = self._entries.get((metric, trained, evaluated))
        return math.nan if row is None else row.value

    def need(self, metric: str, trained: int, evaluated: int) -> float:
        """An entry that a summary cannot do without. Raises UndefinedEntryError with its reason."""
        when = "zero-shot" if trained == ZERO_SHOT else f"after {self.tasks[trained]!r}"
        row = self._entries.get((metric, trained, evaluated))
        return _defined(row, f"{metric} on {self.evaluated[evaluated]!r} {when}")

    def need_before(self, metric: str, task: int) -> float:
        """The frozen model's entry to compare R[task - 1, task] with: the same gallery's.

        Raises UndefinedEntryError with its reason.
        """
        if self._before is None:
            return self.need(metric, ZERO_SHOT, task)
        where = f"{metric} on {self.tasks[task]!r} zero-shot, in the gallery before it was learned"
        return _defined(self._before.get((metric, task)), where)

    def has_queries(self, metric: str, evaluated: int) -> bool:
        """Whether a metric is over any query of a task, or the task was not evaluated at all."""
        return self._queries.get((metric, evaluated), 1) > 0

    def last_trained(self, metric: str) -> int:
        """The last task after which a metric was evaluated; `ZERO_SHOT` if there is none."""
        return max((row.trained_index for row in self.rows if row.metric == metric), default=-1)

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
        column = row.metric, row.evaluated_index
        self._queries[column] = self._queries.get(column, 0) + row.queries


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


def _defined(row: MatrixRow | None, where: str) -> float:
    if row is None:
        raise UndefinedEntryError(f"{where}: not evaluated")
    if math.isnan(row.value):
        raise UndefinedEntryError(f"{where}: {row.reason or 'undefined'}")
    return row.value
