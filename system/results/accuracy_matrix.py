"""The accuracy matrix R of a stream.

R[i, j] is a metric on task j after training on task i, in percent, higher is better. The matrix is
full: tasks are also evaluated before they are learned. Row -1 is the frozen backbone (zero-shot).
An undefined value is NaN with a reason, never 0.

Legend: K tasks, E what is evaluated (the K tasks, or held out).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.results.metrics import MetricValue

ROUTE = "route_"  # how the names of routing accuracies begin
ZERO_SHOT = -1  # trained_index of the evaluation before any task was learned
ABSENT = -1  # queries of an entry that was not evaluated
_CHUNK = 2**18  # entries of one chunk of columns, about
#: Of a matrix that is read: 1,800 tasks with ten metrics each. One that is computed has no bound.
MOST_CELLS = 2**25

#: A column of names: codes (n,), -1 for none, and the names that they stand for.
Coded = tuple[NDArray[np.int32], Sequence[str]]


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
class MatrixBlock:
    """All entries of one metric after one task, in columns (n,) by ascending evaluated index.

    `reasons` of undefined values are by evaluated index.
    """

    trained_index: int
    metric: str
    evaluated: NDArray[np.int32]
    values: NDArray[np.float64]
    queries: NDArray[np.int32]
    reasons: Mapping[int, str]


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


def matrix_blocks(rows: Iterable[MatrixRow]) -> list[MatrixBlock]:
    """The rows in columns, one block a trained task and metric, in the order of first rows."""
    grouped: dict[tuple[int, str], list[MatrixRow]] = {}
    for row in rows:
        grouped.setdefault((row.trained_index, row.metric), []).append(row)
    blocks = []
    for (trained, metric), found in grouped.items():
        found.sort(key=lambda row: row.evaluated_index)
        blocks.append(
            MatrixBlock(
                trained,
                metric,
                np.array([row.evaluated_index for row in found], np.int32),
                np.array([row.value for row in found], np.float64),
                np.array([row.queries for row in found], np.int32),
                {row.evaluated_index: row.reason for row in found if row.reason is not None},
            )
        )
    return blocks


def plain_row(row: MatrixRow) -> dict[str, Any]:
    """A matrix row as JSON can hold it: an undefined value is null."""
    values = asdict(row)
    return values | {"value": None if math.isnan(row.value) else row.value}


def row_of(values: Mapping[str, Any]) -> MatrixRow:
    """The row that `plain_row` gave."""
    value = values["value"]
    return MatrixRow(**{**values, "value": math.nan if value is None else value})


@dataclass
class _Line:
    """A metric after one task on all that is evaluated, [E]."""

    values: NDArray[np.float64]  # NaN: undefined or not evaluated
    queries: NDArray[np.int32]  # `ABSENT`: not evaluated
    reasons: NDArray[np.int32] | None = None  # codes, -1: none; None: none at all


class AccuracyMatrix:
    """All entries of a run, for every metric; `system.results.stream_metrics` sums them up.

    Args:
        tasks: names of the K tasks in order.
        rows: entries in any order, at most one a (trained, evaluated, metric).
        evaluated: names of what is evaluated, where that is not the tasks but held out: R is then
            [K, E], and has no summaries over tasks.
        before: where galleries grow with the tasks, the frozen model's entry on each task in the
            gallery that it has right before the task is learned; None: all galleries are alike.
        blocks: more entries, in columns.

    Raises:
        DataError: an entry appears twice or names a task that does not exist.
    """

    def __init__(
        self,
        tasks: Iterable[str],
        rows: Iterable[MatrixRow] = (),
        evaluated: Iterable[str] | None = None,
        before: Iterable[MatrixRow] | None = None,
        blocks: Iterable[MatrixBlock] = (),
    ) -> None:
        self.tasks = tuple(tasks)
        self.held_out = evaluated is not None
        self.evaluated = self.tasks if evaluated is None else tuple(evaluated)
        self._before: dict[tuple[str, int], MatrixRow] | None = None
        if before is not None:
            self._before = {(row.metric, row.evaluated_index): row for row in before}
        self._lines: dict[str, dict[int, _Line]] = {}  # metric -> trained index
        self._codes: dict[str, int] = {}  # of reasons
        self._reasons: list[str] = []  # by code
        self._queries: dict[str, NDArray[np.int64]] = {}  # of all lines together, [E]
        self._evaluated: dict[str, NDArray[np.bool_]] = {}  # after any task, [E]
        for block in matrix_blocks(rows):
            self._enter(block)
        for block in blocks:
            self._enter(block)

    def with_rows(self, rows: Iterable[MatrixRow]) -> AccuracyMatrix:
        """A matrix that also holds `rows`."""
        evaluated = self.evaluated if self.held_out else None
        before = None if self._before is None else self._before.values()
        return AccuracyMatrix(self.tasks, (*self.rows, *rows), evaluated, before)

    @property
    def rows(self) -> tuple[MatrixRow, ...]:
        """All entries: by trained task, then metric, then evaluated task."""
        return tuple(row for trained in self.trained for row in self.rows_after(trained))

    def rows_after(self, trained: int, metric: str | None = None) -> Iterator[MatrixRow]:
        """The entries after one task, of all metrics or of one."""
        for name in self.metrics if metric is None else (metric,):
            line = self._lines.get(name, {}).get(trained)
            for j in () if line is None else np.flatnonzero(line.queries != ABSENT).tolist():
                assert line is not None
                reason = self._reason(line, j)
                value, queries = float(line.values[j]), int(line.queries[j])
                yield MatrixRow(trained, j, name, value, queries, reason)

    @property
    def trained(self) -> tuple[int, ...]:
        """After which tasks anything was evaluated, ascending; `ZERO_SHOT` among them."""
        return tuple(sorted({trained for lines in self._lines.values() for trained in lines}))

    @property
    def galleries_grow(self) -> bool:
        """Whether a query searches the more, the more tasks were learned."""
        return self._before is not None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order in which they first appear."""
        return tuple(self._lines)

    @property
    def recalls(self) -> tuple[str, ...]:
        """The metrics that are recalls: all but the accuracies of the router."""
        return tuple(metric for metric in self.metrics if not metric.startswith(ROUTE))

    def values(self, metric: str) -> NDArray[np.float64]:
        """R of a metric, [K, E], NaN where it is undefined or was not evaluated."""
        size = len(self.tasks), len(self.evaluated)
        values = [self.values_after(metric, i) for i in range(size[0])]
        return np.array(values, dtype=np.float64).reshape(size)

    def values_after(self, metric: str, trained: int) -> NDArray[np.float64]:
        """One row of R, [E]; read only."""
        line = self._lines.get(metric, {}).get(trained)
        return np.full(len(self.evaluated), math.nan) if line is None else line.values

    def zero_shot(self, metric: str) -> NDArray[np.float64]:
        """The frozen backbone's metric on each task, [E], NaN where there is none."""
        return self.values_after(metric, ZERO_SHOT)

    def value(self, metric: str, trained: int, evaluated: int) -> float:
        """An entry, NaN where it is undefined or was not evaluated."""
        line = self._lines.get(metric, {}).get(trained)
        return math.nan if line is None else float(line.values[evaluated])

    def holds(self, metric: str, trained: int, evaluated: int) -> bool:
        """Whether an entry was evaluated, with or without a value."""
        line = self._lines.get(metric, {}).get(trained)
        return line is not None and bool(line.queries[evaluated] != ABSENT)

    def reason(self, metric: str, trained: int, evaluated: int) -> str | None:
        """Why an entry is undefined; None where it is defined, or no reason is known."""
        if not self.holds(metric, trained, evaluated):
            return "not evaluated"
        return self._reason(self._lines[metric][trained], evaluated)

    def _reason(self, line: _Line, evaluated: int) -> str | None:
        code = -1 if line.reasons is None else int(line.reasons[evaluated])
        return None if code < 0 else self._reasons[code]

    def need(self, metric: str, trained: int, evaluated: int) -> float:
        """An entry that a summary cannot do without. Raises UndefinedEntryError with its reason."""
        value = self.value(metric, trained, evaluated)
        if math.isnan(value):
            when = "zero-shot" if trained == ZERO_SHOT else f"after {self.tasks[trained]!r}"
            reason = self.reason(metric, trained, evaluated) or "undefined"
            raise UndefinedEntryError(f"{metric} on {self.evaluated[evaluated]!r} {when}: {reason}")
        return value

    def need_before(self, metric: str, task: int) -> float:
        """The frozen model's entry to compare R[task - 1, task] with: the same gallery's.

        Raises UndefinedEntryError with its reason.
        """
        if self._before is None:
            return self.need(metric, ZERO_SHOT, task)
        where = f"{metric} on {self.tasks[task]!r} zero-shot, in the gallery before it was learned"
        row = self._before.get((metric, task))
        if row is None:
            raise UndefinedEntryError(f"{where}: not evaluated")
        if math.isnan(row.value):
            raise UndefinedEntryError(f"{where}: {row.reason or 'undefined'}")
        return row.value

    def has_queries(self, metric: str, evaluated: int) -> bool:
        """Whether a metric is over any query of a task, or the task was not evaluated at all."""
        if metric not in self._queries or not self._evaluated[metric][evaluated]:
            return True
        return bool(self._queries[metric][evaluated] > 0)

    def last_trained(self, metric: str) -> int:
        """The last task after which a metric was evaluated; `ZERO_SHOT` if there is none."""
        return max(self._lines.get(metric, ()), default=ZERO_SHOT)

    def columns(self) -> Iterator[dict[str, Any]]:
        """The entries as accuracy_matrix.parquet has its columns, some hundred thousand at a time.

        In the order of `rows`. Names are `Coded`, numbers arrays (n,).
        """
        waiting: list[tuple[int, int, NDArray[np.intp]]] = []  # trained, metric, evaluated
        count = 0
        for trained in self.trained:
            for code, lines in enumerate(self._lines.values()):
                if trained in lines:
                    there = np.flatnonzero(lines[trained].queries != ABSENT)
                    waiting.append((trained, code, there))
                    count += len(there)
            if count >= _CHUNK:
                yield self._columns(waiting)
                waiting, count = [], 0
        if waiting:
            yield self._columns(waiting)

    def _columns(self, parts: Sequence[tuple[int, int, NDArray[np.intp]]]) -> dict[str, Any]:
        metrics = self.metrics
        sizes = [len(there) for _, _, there in parts]
        trained = np.repeat([trained for trained, _, _ in parts], sizes).astype(np.int32)
        evaluated = np.concatenate([there for _, _, there in parts]).astype(np.int32)
        lines = [self._lines[metrics[code]][trained] for trained, code, _ in parts]
        cut = [(line, there) for line, (_, _, there) in zip(lines, parts, strict=True)]
        reasons = [
            np.full(len(there), -1, np.int32) if line.reasons is None else line.reasons[there]
            for line, there in cut
        ]
        nowhere = np.full(len(trained), -1, np.int32)
        return {
            "trained_index": trained,
            "trained_task": (trained, self.tasks),  # `ZERO_SHOT` has none
            "evaluated_index": evaluated,
            "evaluated_task": (evaluated, self.evaluated),
            "metric": (np.repeat([c for _, c, _ in parts], sizes).astype(np.int32), metrics),
            "value": np.concatenate([line.values[there] for line, there in cut]),
            "reason": (np.concatenate(reasons), tuple(self._reasons)),
            "queries": np.concatenate([line.queries[there] for line, there in cut]),
            "held_out": (evaluated if self.held_out else nowhere, self.evaluated),
        }

    @classmethod
    def from_columns(
        cls, chunks: Iterable[Mapping[str, Any]], *, held_out: bool = False
    ) -> AccuracyMatrix:
        """The matrix whose columns these are: the stream's, or that of `held_out` benchmarks.

        `chunks` are as `columns` gives them, and are gone through twice.

        Raises:
            DataError: the columns leave out or rename a task, or the matrix were too large.
        """
        tasks, apart = _Names(), _Names()
        lines: dict[str, set[int]] = {}
        for columns in chunks:
            beside = columns["held_out"][0] >= 0
            trained, evaluated = columns["trained_index"], columns["evaluated_index"]
            tasks.add(trained, columns["trained_task"])
            codes, names = columns["evaluated_task"]
            tasks.add(evaluated[~beside], (codes[~beside], names))
            apart.add(evaluated[beside], (codes[beside], names))
            metric, metrics = columns["metric"]
            mine = beside == held_out
            for code in np.unique(metric[mine]).tolist():
                found = np.unique(trained[mine & (metric == code)]).tolist()
                lines.setdefault(metrics[code], set()).update(found)
            # A few rows can name any number of tasks, and the matrix has a cell for each pair.
            size = max(sum(map(len, lines.values())), len(tasks)) * len(
                apart if held_out else tasks
            )
            if size > MOST_CELLS:
                raise DataError(
                    f"accuracy matrix of {len(tasks):,} tasks and {len(lines)} metrics has "
                    f"{size:,} cells, more than the {MOST_CELLS:,} that are read"
                )
        return cls(
            tasks.in_order(),
            evaluated=apart.in_order() if held_out else None,
            blocks=chain.from_iterable(_blocks(columns, held_out) for columns in chunks),
        )

    def _code(self, reason: str) -> int:
        if reason not in self._codes:
            self._codes[reason] = len(self._reasons)
            self._reasons.append(reason)
        return self._codes[reason]

    def _enter(self, block: MatrixBlock) -> None:
        size, width = len(self.tasks), len(self.evaluated)
        there, trained = block.evaluated, block.trained_index
        outside = (there < 0) | (there >= width)
        if not ZERO_SHOT <= trained < size or outside.any():
            first = int(there[outside][0]) if outside.any() else int(there[0])
            raise DataError(
                f"accuracy matrix entry ({trained}, {first}) is outside the {size} tasks"
            )
        lines = self._lines.setdefault(block.metric, {})
        if trained not in lines:
            lines[trained] = _Line(np.full(width, math.nan), np.full(width, ABSENT, np.int32))
        line = lines[trained]
        twice = line.queries[there] != ABSENT
        twice[1:] |= np.diff(there) == 0
        if twice.any():
            raise DataError(
                f"accuracy matrix has {block.metric} on task {there[twice][0]} after task "
                f"{trained} twice"
            )
        line.values[there] = block.values
        line.queries[there] = block.queries
        if block.reasons and line.reasons is None:
            line.reasons = np.full(width, -1, np.int32)
        for evaluated, reason in block.reasons.items():
            assert line.reasons is not None
            line.reasons[evaluated] = self._code(reason)
        if block.metric not in self._queries:
            self._queries[block.metric] = np.zeros(width, np.int64)
            self._evaluated[block.metric] = np.zeros(width, np.bool_)
        self._queries[block.metric][there] += block.queries
        self._evaluated[block.metric][there] = True


def _blocks(columns: Mapping[str, Any], held_out: bool) -> Iterator[MatrixBlock]:
    """The entries of columns, or those of held-out benchmarks; metrics as they first appear."""
    trained, evaluated = columns["trained_index"], columns["evaluated_index"]
    chosen = np.flatnonzero((columns["held_out"][0] >= 0) == held_out)
    metric, metrics = columns["metric"]
    _, first = np.unique(metric[chosen], return_index=True)
    place = np.zeros(len(metrics), np.int64)
    place[metric[chosen][np.sort(first)]] = np.arange(len(first))
    order = chosen[np.lexsort((evaluated[chosen], trained[chosen], place[metric[chosen]]))]
    keys = np.stack([trained[order], metric[order]])
    cuts = np.flatnonzero((np.diff(keys) != 0).any(axis=0)) + 1
    why, reasons = columns["reason"]
    for part in np.split(order, cuts) if len(order) else ():
        said = part[why[part] >= 0]
        yield MatrixBlock(
            int(trained[part[0]]),
            metrics[metric[part[0]]],
            evaluated[part],
            columns["value"][part],
            columns["queries"][part],
            {int(evaluated[i]): reasons[why[i]] for i in said},
        )


class _Names:
    """Names of tasks by their index, as columns give them."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def add(self, indices: NDArray[np.int32], coded: Coded) -> None:
        codes, names = coded
        for index, code in np.unique(np.stack([indices, codes]), axis=1).T.tolist():
            if index != ZERO_SHOT and code < 0:
                raise DataError(f"accuracy matrix has no name for task {index}")
            if index != ZERO_SHOT and self._names.setdefault(index, names[code]) != names[code]:
                raise DataError(
                    f"accuracy matrix names task {index} both {self._names[index]!r} and "
                    f"{names[code]!r}"
                )

    def __len__(self) -> int:
        return len(self._names)

    def in_order(self) -> list[str]:
        if sorted(self._names) != list(range(len(self._names))):
            raise DataError(f"accuracy matrix leaves out tasks: it has only {sorted(self._names)}")
        return [self._names[index] for index in range(len(self._names))]
