"""One consumer's place in the task stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from system.stages.task_source import ConsumerStatus, TaskState


@dataclass
class Cursor:
    """What the journal says of a consumer, and what only this process remembers."""

    generation: int = 0
    leased: str | None = None
    trained: bool = False  # the leased task is: its training split is shut
    replays: bool = False  # declared: it may read past tasks' training splits
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)  # task -> payload, in order
    expired: str | None = None  # the task whose lease was lost last, until one is held again
    renewed: float = 0.0  # by the clock of this process
    progress: tuple[float, dict[str, Any]] | None = None  # when posted, and what

    def status(self, tasks: Sequence[str], now: float) -> ConsumerStatus:
        """Where the consumer stands among the stream's tasks."""
        posted_at, progress = self.progress or (None, None)
        return {
            "generation": self.generation,
            "current_task": self.leased,
            "committed": len(self.commits),
            "tasks": [self._task_state(index, task) for index, task in enumerate(tasks)],
            "progress": progress,
            "seconds_since_progress": None if posted_at is None else now - posted_at,
        }

    def _task_state(self, index: int, task: str) -> TaskState:
        if task in self.commits:
            state = "sealed"
        elif task == self.leased:
            state = "trained" if self.trained else "leased"
        else:
            state = "pending"
        return {"task": task, "index": index, "state": state}
