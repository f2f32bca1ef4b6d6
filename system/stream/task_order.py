"""In which order a stream's tasks come: policies that name the next of the tasks that wait.

A policy looks only at the tasks that are there, so that it serves a benchmark whose tasks are all
known and a live stream to which tasks are appended alike.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from system.config.schema import OrderPolicy

ORDER_POLICIES: tuple[OrderPolicy, ...] = get_args(OrderPolicy)

#: How alike two tasks are, by their names; larger is more.
Alikeness = Callable[[str, str], float]


@dataclass(frozen=True)
class TaskOrder:
    """Chooses tasks one by one.

    Attributes:
        policy: "given": the first that waits; "reversed": the last; "shuffled": by a hash of `seed`
            and name, so that a task keeps its place among the others when more are appended;
            "similarity": the one most like the task before it, from the first given one on.
        seed: of "shuffled".
        alike: of "similarity", which needs it; ties go to the task given first.
    """

    policy: OrderPolicy = "given"
    seed: int = 0
    alike: Alikeness | None = None

    def __post_init__(self) -> None:
        if self.policy == "similarity" and self.alike is None:
            raise ValueError("policy 'similarity' needs alike")

    def next(self, waiting: Sequence[str], before: str | None) -> str:
        """The next of the tasks that wait (at least one, as given), after the task `before`."""
        if self.policy == "shuffled":
            return min(waiting, key=self._drawn)
        if self.policy == "similarity" and before is not None:
            alike = self.alike
            assert alike is not None
            return max(waiting, key=lambda task: alike(before, task))
        return waiting[-1 if self.policy == "reversed" else 0]

    def order(self, tasks: Sequence[str], before: str | None = None) -> tuple[str, ...]:
        """All tasks in the order in which they would be chosen, after `before`, if none came."""
        waiting, chosen = list(tasks), list[str]()
        while waiting:
            chosen.append(self.next(waiting, chosen[-1] if chosen else before))
            waiting.remove(chosen[-1])
        return tuple(chosen)

    def _drawn(self, task: str) -> str:
        return hashlib.sha256(f"{self.seed}:{task}".encode()).hexdigest()
