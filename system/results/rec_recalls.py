"""From the ranks of hits to the named recalls of a split: by task, super-category, size of box.

Recalls are in percent. Legend: n expressions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from system.results.metrics import GROUNDING, STRICTER, Overlap
from system.results.rec import rec_recall

#: The columns of ranks: how a box's overlap is measured, and from which overlap on it hits.
OVERLAPS: tuple[tuple[Overlap, float], ...] = (
    ("iou", 0.5),
    ("giou", 0.5),
    *(("iou", least) for least in STRICTER),
)
METRICS = tuple(metric.name for metric in GROUNDING)
#: Sizes of objects, each up to an area in square pixels (MSCOCO's bounds, which it measures on
#: masks).
SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": math.inf}

Recalls = dict[str, float]  # by metric, in percent, NaN where undefined


@dataclass(frozen=True)
class TaskRanks:
    """The ranks found for the expressions of one task's split."""

    ranks: Tensor  # (n, columns) rank of the first hit by each of OVERLAPS, from 0; -1: none
    super_categories: Sequence[str]  # n of them
    areas: Sequence[float]  # n of them: of the object's box, in pixels of the image as distributed


@dataclass(frozen=True)
class SplitRecalls:
    """A split's recalls, and why one is undefined (by its path among the values)."""

    all: Recalls  # over all expressions
    average: Recalls  # over tasks that have expressions, each counting alike
    per_task: Mapping[str, Recalls]
    per_super_category: Mapping[str, Recalls]
    per_size: Mapping[str, Recalls]  # by those of SIZES that there are
    sizes: Mapping[str, int]  # expressions of each of them
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
            "per_size": {name: _plain(found) for name, found in self.per_size.items()},
            "sizes": dict(self.sizes),
            "expressions": self.expressions,
        }


def recalls(ranks: Tensor) -> Recalls:
    """All metrics of ranks (n, columns), one column an overlap; NaN without an expression."""
    return {
        metric.name: 100.0
        * rec_recall(ranks[:, OVERLAPS.index((metric.overlap, metric.least))], [metric.k])[metric.k]
        for metric in GROUNDING
    }


def split_recalls(tasks: Mapping[str, TaskRanks], split: str) -> SplitRecalls:
    """The recalls of a split from those of its tasks, in their order."""
    undefined = {}
    for task, found in tasks.items():
        if not len(found.ranks):
            undefined[f"per_task.{task}"] = f"task {task!r} has no expression in split {split!r}"
    every = torch.cat([found.ranks for found in tasks.values()])
    if not len(every):
        undefined["all"] = undefined["average"] = f"split {split!r} has no expression"
    names = [name for found in tasks.values() for name in found.super_categories]
    sizes = [size_of(area) for found in tasks.values() for area in found.areas]
    per_task = {task: recalls(found.ranks) for task, found in tasks.items()}
    return SplitRecalls(
        all=recalls(every),
        average={
            metric: sum(values) / len(values) if values else math.nan
            for metric in METRICS
            for values in [[per_task[name][metric] for name, of in tasks.items() if len(of.ranks)]]
        },
        per_task=per_task,
        per_super_category={
            name: recalls(every[_places(names, name)]) for name in sorted(set(names))
        },
        per_size={size: recalls(every[_places(sizes, size)]) for size in SIZES if size in sizes},
        sizes={size: sizes.count(size) for size in SIZES if size in sizes},
        expressions=len(every),
        undefined=undefined,
    )


def size_of(area: float) -> str:
    """The one of SIZES that an object of so many square pixels has."""
    return next(size for size, bound in SIZES.items() if area < bound)


def _places(names: Sequence[str], name: str) -> Tensor:
    return torch.tensor([other == name for other in names], dtype=torch.bool)


def _plain(found: Recalls) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in found.items()}
