"""The accuracy matrix as the page and the final table read it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from system.report.metrics_view import headline_metrics
from system.results.accuracy_matrix import AccuracyMatrix
from system.storage.run_directory import MatrixFile


@dataclass(frozen=True)
class Cell:
    """One entry R[trained, evaluated] in percent; None when undefined, with the reason."""

    value: float | None
    reason: str | None


@dataclass(frozen=True)
class MatrixView:
    """R[i, j] by metric: `tasks` in stream order, `trained` the rows present, -1 = zero-shot."""

    matrix: AccuracyMatrix

    @classmethod
    def from_tables(cls, tables: Iterable[pa.Table]) -> "MatrixView":
        """View of the tables of accuracy_matrix.parquet's row groups, gone through twice.

        Raises:
            DataError: they contradict themselves or have another schema.
        """
        return cls(AccuracyMatrix.from_columns(MatrixFile(tables)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.matrix.tasks

    @property
    def trained(self) -> tuple[int, ...]:
        """After which tasks anything was evaluated."""
        return self.matrix.trained

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return self.matrix.metrics

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that lead."""
        return headline_metrics(self.metrics)

    def cell(self, metric: str, trained: int, evaluated: int) -> Cell:
        """Entry of the matrix; a cell that was never measured says so."""
        value = self.matrix.value(metric, trained, evaluated)
        return Cell(
            value if math.isfinite(value) else None,
            self.matrix.reason(metric, trained, evaluated),
        )

    def value(self, metric: str, trained: int, evaluated: int) -> float | None:
        """Value of an entry in percent, None when undefined."""
        value = self.matrix.value(metric, trained, evaluated)
        return value if math.isfinite(value) else None

    def row(self, metric: str, trained: int) -> list[float | None]:
        """Values of all tasks after one task was learned."""
        return [self.value(metric, trained, task) for task in range(len(self.tasks))]

    def highest(self, metric: str) -> float:
        """The largest value of all, 0 where there is none."""
        rows = [self.matrix.values_after(metric, trained) for trained in self.trained]
        return max((float(row[np.isfinite(row)].max(initial=0.0)) for row in rows), default=0.0)

    def diagonal(self, metric: str) -> list[float | None]:
        """Value of each task right after it was learned; of tasks without queries none."""
        return [self.value(metric, task, task) for task in self._judged(metric)]

    def average_so_far(self, metric: str, trained: int, learned: int) -> float | None:
        """Mean of row `trained` over the tasks up to and with index `learned` that have queries."""
        tasks = [task for task in self._judged(metric) if task <= learned]
        return mean([self.value(metric, trained, task) for task in tasks])

    def _judged(self, metric: str) -> list[int]:
        """The tasks that the evaluated split has queries of."""
        return [task for task in range(len(self.tasks)) if self.matrix.has_queries(metric, task)]


def mean(values: Sequence[float | None]) -> float | None:
    """Arithmetic mean; undefined (None) when empty or when any value is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
