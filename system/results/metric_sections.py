"""Sections of metrics.json that are read off an accuracy matrix."""

from system.results.accuracy_matrix import AccuracyMatrix
from system.results.stream_metrics import Summary

PerTask = dict[str, dict[str, float | None]]  # task -> metric -> percent


def defined(summary: Summary, name: str, undefined: dict[str, str]) -> float | None:
    """A summary's value; null if it has none, with the reason under `name` in `undefined`."""
    if summary.reason is None:
        return summary.value
    undefined[name] = summary.reason
    return None


def row_mean(matrix: AccuracyMatrix, metric: str, trained: int) -> Summary:
    """The mean of a metric over what has queries, after task `trained` or `ZERO_SHOT`."""
    rows = [
        r
        for r in matrix.rows_after(trained, metric)
        if matrix.has_queries(metric, r.evaluated_index)
    ]
    for row in rows:
        if row.reason is not None:
            return Summary(float("nan"), row.reason)
    if not rows:
        return Summary(float("nan"), "not evaluated")
    return Summary(sum(row.value for row in rows) / len(rows))


def query_counts(matrix: AccuracyMatrix, trained: int) -> dict[str, int]:
    """How many test queries each metric's average is over, in the row of `trained`."""
    return {
        metric: sum(row.queries for row in matrix.rows_after(trained, metric))
        for metric in matrix.recalls
    }


def per_task_values(
    matrix: AccuracyMatrix, trained: int, section: str, undefined: dict[str, str]
) -> PerTask:
    """Each task's metrics in the row of `trained`; `section` is where they stand."""
    found: PerTask = {task: {} for task in matrix.evaluated}
    for row in matrix.rows_after(trained):
        if row.metric in matrix.recalls:
            task = matrix.evaluated[row.evaluated_index]
            name = f"{section}.{task}.{row.metric}"
            found[task][row.metric] = defined(Summary(row.value, row.reason), name, undefined)
    return found
