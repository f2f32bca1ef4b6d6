"""From the ranks of hits to the named recalls of a split: over all, by task, by super-category.

Recalls are in percent. Legend: n expressions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from system.results.metrics import GROUNDING, Overlap
from system.results.rec import rec_recall

OVERLAPS: tuple[Overlap, Overlap] = ("iou", "giou")  # the columns of ranks
METRICS = tuple(metric.name for metric in GROUNDING)

Recalls = dict[str, float]  # by metric, in percent, NaN where undefined


@dataclass(frozen=True)
class TaskRanks:
    """The ranks found for the expressions of one task's split."""

    ranks: Tensor  # (n, 2) rank of the first hit by each of OVERLAPS, from 0; -1: none
    super_categories: Sequence[str]  # n of them


@dataclass(frozen=True)
class SplitRecalls:
    """A split's recalls, and why one is undefined (by its path among the values)."""

    all: Recalls  # over all expressions
    average: Recalls  # over tasks, each counting alike
    per_task: Mapping[str, Recalls]
    per_super_category: Mapping[str, Recalls]
    expressions: int
    undefined: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As metrics.json has it: NaN is null."""
        return {
            "all": _plain(self.all),
            "average": _plain(self.average),
            "per_task": {name: _plain(found) for name, found in self.per_task.items()},
            "per_super_category": {
                name: _plain(found) for name, found in self.per_super_category.items()
            },
            "expressions": self.expressions,
        }


def recalls(ranks: Tensor) -> Recalls:
    """All metrics of ranks (n, 2); NaN without an expression."""
    return {
        metric.name: 100.0
        * rec_recall(ranks[:, OVERLAPS.index(metric.overlap)], [metric.k])[metric.k]
        for metric in GROUNDING
    }


def split_recalls(tasks: Mapping[str, TaskRanks], split: str) -> SplitRecalls:
    """The recalls of a split from those of its tasks, in their order."""
    undefined = {}
    for task, found in tasks.items():
        if not len(found.ranks):
            reason = f"task {task!r} has no expression in split {split!r}"
            undefined[f"per_task.{task}"] = reason
            undefined["average"] = reason
    every = torch.cat([found.ranks for found in tasks.values()])
    if not len(every):
        undefined["all"] = f"split {split!r} has no expression"
    names = [name for found in tasks.values() for name in found.super_categories]
    per_task = {task: recalls(found.ranks) for task, found in tasks.items()}
    return SplitRecalls(
        all=recalls(every),
        average={
            metric: sum(found[metric] for found in per_task.values()) / len(per_task)
            for metric in METRICS
        },
        per_task=per_task,
        per_super_category={
            name: recalls(every[torch.tensor([other == name for other in names])])
            for name in sorted(set(names))
        },
        expressions=len(every),
        undefined=undefined,
    )


def _plain(found: Recalls) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in found.items()}
