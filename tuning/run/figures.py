"""The figure a sweep goes by: the average recall over the tasks learned so far."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FIGURE = "figure"  # what trials report: the mean of the configured metrics
TASKS_DONE = "tasks_done"


def recall_so_far(
    rows: Iterable[Mapping[str, Any]], metrics: Sequence[str], done: int
) -> list[float | None]:
    """For each of the first `done` tasks t: the mean over `metrics` and tasks j <= t of R[t, j].

    `rows` are those of accuracy_matrix.parquet, or of what a stream committed. None where an entry
    is undefined or was not evaluated (joint training evaluates at the end alone).
    """
    values: dict[tuple[str, int, int], float] = {}
    for row in rows:
        value = row["value"]
        if value is not None and value == value:  # not NaN
            values[row["metric"], row["trained_index"], row["evaluated_index"]] = value
    figures: list[float | None] = []
    for task in range(done):
        cells = [values.get((m, task, j)) for m in metrics for j in range(task + 1)]
        known = [cell for cell in cells if cell is not None]
        figures.append(sum(known) / len(known) if len(known) == len(cells) else None)
    return figures
