"""Recall and mAP of image-text retrieval, from the ranks of its queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from system.results.metrics import RETRIEVAL, Metric, MetricValue
from system.results.ranks import QueryRanks

KS = (1, 5, 10)
METRICS = tuple(
    sorted((m.name for m in RETRIEVAL), key=lambda name: name.startswith("i2t"))
)  # by direction
ALWAYS = "is always 100"  # ends the reason of a metric that cannot fail


def recall_at_k(ranks: Tensor, ks: Sequence[int] = KS) -> dict[int, float]:
    """Percent of queries whose rank is at most k, for each k; NaN if there are no queries."""
    return {
        k: 100.0 * float((ranks <= k).double().mean()) if len(ranks) else float("nan") for k in ks
    }


def retrieval_metrics(found: Iterable[QueryRanks]) -> dict[str, dict[int, MetricValue]]:
    """The metrics of `RETRIEVAL` on each task: name -> task -> value.

    A metric that cannot fail is undefined: NaN with a reason. That is recall in a gallery with no
    more than k - 1 wrong candidates, and mAP in one without any.
    """
    values: dict[str, dict[int, MetricValue]] = {metric: {} for metric in METRICS}
    for one in found:
        for metric in RETRIEVAL:
            if metric.direction == one.direction:
                values[metric.name][one.task] = _value(metric, one)
    return values


def _value(metric: Metric, found: QueryRanks) -> MetricValue:
    """A metric, or the reason why it is undefined."""
    assert metric.k is not None
    queries, worst = len(found.ranks), found.worst
    recall = metric.of == "recall"
    if queries == 0:
        return MetricValue(float("nan"), 0, "no queries")
    if worst <= (metric.k if recall else 1):
        what = f"recall at {metric.k}" if recall else f"mAP@{metric.k}"
        reason = f"no query can rank below {worst} in this gallery: {what} {ALWAYS}"
        return MetricValue(float("nan"), queries, reason)
    if recall:
        return MetricValue(recall_at_k(found.ranks, (metric.k,))[metric.k], queries)
    return MetricValue(100.0 * float(found.precision.mean()), queries)
