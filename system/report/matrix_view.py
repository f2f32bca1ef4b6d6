"""The accuracy matrix as the page and the final table read it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from system.report.metrics_view import headline_metrics
from system.results.accuracy_matrix import AccuracyMatrix
from system.storage.run_directory import matrix_records


@dataclass(frozen=True)
class Cell:
    """One entry R[trained, evaluated] in percent; None when undefined, with the reason."""

    value: float | None
    reason: str | None


@dataclass(frozen=True)
class MatrixView:
    """R[i, j] by metric: `tasks` in stream order, `trained` the rows present, -1 = zero-shot.

    `unjudged`: (metric, task) without a query in the evaluated split.
    """

    tasks: tuple[str, ...]
    trained: tuple[int, ...]
    metrics: tuple[str, ...]
    cells: Mapping[tuple[str, int, int], Cell]
    unjudged: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def from_table(cls, table: pa.Table) -> "MatrixView":
        """Build from a table in the schema of accuracy_matrix.parquet.

        Raises:
            DataError: the table contradicts itself or has another schema.
        """
        matrix = AccuracyMatrix.from_records(matrix_records(table))
        cells = {
            (row.metric, row.trained_index, row.evaluated_index): Cell(
                row.value if math.isfinite(row.value) else None, row.reason
            )
            for row in matrix.rows
        }
        return cls(
            tasks=matrix.tasks,
            trained=tuple(sorted({trained for _, trained, _ in cells})),
            metrics=matrix.metrics,
            cells=cells,
            unjudged=frozenset(
                (metric, task)
                for metric in matrix.metrics
                for task in range(len(matrix.tasks))
                if not matrix.has_queries(metric, task)
            ),
        )

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that lead."""
        return headline_metrics(self.metrics)

    def cell(self, metric: str, trained: int, evaluated: int) -> Cell:
        """Entry of the matrix; a cell that was never measured says so."""
        return self.cells.get((metric, trained, evaluated), Cell(None, "not evaluated"))

    def value(self, metric: str, trained: int, evaluated: int) -> float | None:
        """Value of an entry in percent, None when undefined."""
        return self.cell(metric, trained, evaluated).value

    def row(self, metric: str, trained: int) -> list[float | None]:
        """Values of all tasks after one task was learned."""
        return [self.value(metric, trained, task) for task in range(len(self.tasks))]

    def diagonal(self, metric: str) -> list[float | None]:
        """Value of each task right after it was learned; of tasks without queries none."""
        return [self.value(metric, task, task) for task in self._judged(metric)]

    def average_so_far(self, metric: str, trained: int, learned: int) -> float | None:
        """Mean of row `trained` over the tasks up to and with index `learned` that have queries."""
        tasks = [task for task in self._judged(metric) if task <= learned]
        return mean([self.value(metric, trained, task) for task in tasks])

    def _judged(self, metric: str) -> list[int]:
        """The tasks that the evaluated split has queries of."""
        return [task for task in range(len(self.tasks)) if (metric, task) not in self.unjudged]


def mean(values: Sequence[float | None]) -> float | None:
    """Arithmetic mean; undefined (None) when empty or when any value is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
