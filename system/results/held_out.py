"""What a run did to held-out benchmarks: zero-shot, after each task, and what is left."""

from __future__ import annotations

import math
from typing import Any

from system.results.accuracy_matrix import ZERO_SHOT, AccuracyMatrix
from system.results.stream_metrics import Summary, retention

Recalls = dict[str, float | None]  # by metric, in percent; None where undefined


def held_out_metrics(matrix: AccuracyMatrix, undefined: dict[str, str]) -> dict[str, Any]:
    """The values of each held-out benchmark as metrics.json has them.

    "zero_shot" of the frozen model, "after" each task that was followed by an evaluation, and
    "retention": the last of these less the zero-shot value, so that a loss is negative. Reasons for
    what has no value go to `undefined`, by their path in metrics.json.
    """
    return {
        name: _of_benchmark(matrix, place, f"held_out.{name}", undefined)
        for place, name in enumerate(matrix.evaluated)
    }


def _of_benchmark(
    matrix: AccuracyMatrix, place: int, path: str, undefined: dict[str, str]
) -> dict[str, Any]:
    def values(key: str, summaries: dict[str, Summary]) -> Recalls:
        for metric, summary in summaries.items():
            if summary.reason is not None:
                undefined[f"{path}.{key}.{metric}"] = summary.reason
        return {
            metric: None if math.isnan(summary.value) else summary.value
            for metric, summary in summaries.items()
        }

    def recalls(key: str, trained: int) -> Recalls:
        rows = [row for row in matrix.rows_after(trained) if row.evaluated_index == place]
        return values(key, {row.metric: Summary(row.value, row.reason) for row in rows})

    trained = [task for task in matrix.trained if task != ZERO_SHOT]
    return {
        "zero_shot": recalls("zero_shot", ZERO_SHOT),
        "after": {
            matrix.tasks[task]: recalls(f"after.{matrix.tasks[task]}", task) for task in trained
        },
        "retention": values(
            "retention", {metric: retention(matrix, metric, place) for metric in matrix.metrics}
        ),
    }
