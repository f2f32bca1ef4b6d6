"""Pruning: which trials are stopped early, by their average recall over the tasks finished so far.

Decisions depend only on the trials' scores and their order, never on timing: a trial is compared
with the trials before it, and only once those have finished as many tasks or have ended. The same
trials are therefore stopped whatever ran in parallel, at whatever speed and with whatever
interruption. A trial that runs ahead of the trials it waits for keeps training meanwhile; if it is
stopped late, only its time was wasted.

Asynchronous successive halving: Li et al. 2020, "A system for massively parallel hyperparameter
tuning" (arXiv 1810.05934), algorithm 2, with the rule of Ray Tune's ASHA: a trial ends when its
score is below the (1 - 1/reduction) quantile of those before it at the same task. Median stopping:
after Golovin et al. 2017, "Google Vizier", section 3.2: it ends below their median.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

MEDIAN_NEEDS = 3  # scores from which on a median is taken; the default of Ray Tune too


@dataclass(frozen=True)
class PruningRule:
    """When trials over a stream of `tasks` tasks are compared, and the score they must reach."""

    kind: Literal["none", "asha", "median"]
    grace_tasks: int
    reduction: int
    tasks: int

    @property
    def rungs(self) -> list[int]:
        """Numbers of finished tasks at which a trial may be stopped; never the last task."""
        if self.kind == "none":
            return []
        if self.kind == "median":
            return list(range(self.grace_tasks, self.tasks))
        rungs, rung = [], self.grace_tasks
        while rung < self.tasks:
            rungs.append(rung)
            rung *= self.reduction
        return rungs

    def cutoff(self, before: Sequence[float]) -> float | None:
        """The score below which a trial is stopped, given those before it; None if too few."""
        if self.kind == "median":
            return float(np.median(before)) if len(before) >= MEDIAN_NEEDS else None
        if not before:
            return None
        return float(np.percentile(before, 100 * (1 - 1 / self.reduction)))


@dataclass
class LearningCurve:
    """A trial's score after each finished task, None where undefined; `ended`: it is complete."""

    scores: list[float | None] = field(default_factory=list)
    ended: bool = False


def pruned_after(rule: PruningRule, curves: Sequence[LearningCurve]) -> list[int | None]:
    """Number of tasks after which each trial is stopped; None: not stopped, or not yet decided.

    `curves` are those of comparable trials (of one seed), in the order of the sweep.
    """
    stopped: list[int | None] = [None] * len(curves)
    for rung in rule.rungs:
        before: list[float] = []
        for index, curve in enumerate(curves):
            if stopped[index] is not None:
                continue  # at an earlier rung
            if len(curve.scores) < rung:
                if curve.ended:
                    continue
                break  # the trials after it wait for it
            score = curve.scores[rung - 1]
            if score is None:
                continue
            cutoff = rule.cutoff(before)
            if cutoff is not None and score < cutoff:
                stopped[index] = rung
            before.append(score)
    return stopped
