"""Which trials end early, judged on the average recall over the tasks they have finished.

The verdicts follow from the trials' figures and their order alone, never from the clock: a trial is
compared with those before it, and only once these have come as far or have ended. Whatever ran side
by side, in whatever speed, with whatever interruption, the same trials are stopped. A trial that is
ahead of those it waits for trains on meanwhile; a late verdict then only wastes its time.

Asynchronous successive halving: Li et al. 2020, "A system for massively parallel hyperparameter
tuning" (arXiv 1810.05934), algorithm 2, with the rule of Ray Tune's ASHA: a trial ends when its
figure is below the (1 - 1/reduction) quantile of those before it at the same task. Median stopping:
after Golovin et al. 2017, "Google Vizier", section 3.2: it ends below their median.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

MEDIAN_NEEDS = 3  # trials before a median says anything; Ray Tune's default too


@dataclass(frozen=True)
class Rule:
    """When trials of a stream of `tasks` tasks are compared, and with what."""

    kind: Literal["none", "asha", "median"]
    grace_tasks: int
    reduction: int
    tasks: int

    @property
    def rungs(self) -> list[int]:
        """The numbers of finished tasks at which a trial may end; the last task ends it anyway."""
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
        """The figure below which a trial ends, given those before it; None: there are too few."""
        if self.kind == "median":
            return float(np.median(before)) if len(before) >= MEDIAN_NEEDS else None
        if not before:
            return None
        return float(np.percentile(before, 100 * (1 - 1 / self.reduction)))


@dataclass
class Course:
    """How far a trial has come: its figure after each task, None where there is none.

    `ended` tells that no further figure will come.
    """

    figures: list[float | None] = field(default_factory=list)
    ended: bool = False


def verdicts(rule: Rule, courses: Sequence[Course]) -> list[int | None]:
    """After how many tasks each trial is stopped; None: not, or not known yet.

    `courses` are those of trials that may be compared (one seed), in the order of the sweep.
    """
    stopped: list[int | None] = [None] * len(courses)
    for rung in rule.rungs:
        before: list[float] = []
        for index, course in enumerate(courses):
            if stopped[index] is not None:
                continue  # it ended at an earlier rung
            if len(course.figures) < rung:
                if course.ended:
                    continue
                break  # those after it wait for it
            figure = course.figures[rung - 1]
            if figure is None:
                continue
            cutoff = rule.cutoff(before)
            if cutoff is not None and figure < cutoff:
                stopped[index] = rung
            before.append(figure)
    return stopped
