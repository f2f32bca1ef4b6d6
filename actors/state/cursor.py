"""Cursor of a consumer: its place in the task stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Any

from system.data.shards.faults import Fault
from system.stream.task_source import ConsumerStatus, NotLeasedError, TaskState


@dataclass
class Cursor:
    """A consumer's place by the journal; progress and `halted` are known to this process alone."""

    generation: int = 0
    leased: str | None = None
    trained: bool = False  # the leased task is: its training split is shut
    replays: bool = False  # declared: it may read past tasks' training splits
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)  # task -> payload, in order
    progress: tuple[float, dict[str, Any]] | None = None  # when posted, and what
    since: dict[str, datetime] = field(default_factory=dict)  # task -> its last change of state
    ranks: set[int] = field(default_factory=set)  # that opened something in this generation
    #: By task and split: the fault of each row that later handles leave out.
    quarantined: dict[tuple[str, str], dict[int, Fault]] = field(default_factory=dict)
    halted: bool = False  # in this process: it gets no more tasks

    def apply(self, kind: str, at: datetime, record: Mapping[str, Any]) -> None:
        """Take in one record of the journal that names this consumer."""
        if kind == "register":
            self._let_go(at)
            self.generation, self.replays = record["generation"], record.get("replays", False)
            self.ranks.clear()
        elif kind == "lease":
            self.leased, self.trained = record["task"], False
            self.since[record["task"]] = at
        elif kind == "open":
            self.ranks.add(record["rank"])
        elif kind == "trained":
            self.trained = True
            self.since[record["task"]] = at
        elif kind == "commit":
            self.commits[record["task"]] = record["payload"]
            self._let_go(at)
        elif kind == "quarantine":
            rows = self.quarantined.setdefault((record["task"], record["split"]), {})
            rows |= {row: Fault(*fault) for row, *fault in record["rows"]}
        elif kind == "expire":  # of a journal from when leases ran out
            self._let_go(at)

    def state(self) -> dict[str, Any]:
        """State after the journal's records, for JSON."""
        return {
            "generation": self.generation,
            "leased": self.leased,
            "trained": self.trained,
            "replays": self.replays,
            "commits": self.commits,
            "since": {task: at.isoformat() for task, at in self.since.items()},
            "ranks": sorted(self.ranks),
            "aside": [
                [*place, [[row, *astuple(fault)] for row, fault in rows.items()]]
                for place, rows in self.quarantined.items()
            ],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Cursor:
        """The cursor with that `state`, also of a journal from when leases ran out ("expired")."""
        since = {task: datetime.fromisoformat(at) for task, at in state["since"].items()}
        quarantined = {
            (task, split): {row: Fault(*fault) for row, *fault in rows}
            for task, split, rows in state["aside"]
        }
        return cls(
            generation=state["generation"],
            leased=state["leased"],
            trained=state["trained"],
            replays=state["replays"],
            commits=state["commits"],
            since=since,
            ranks=set(state["ranks"]),
            quarantined=quarantined,
        )

    def require_lease(self, consumer: str, task: str, what: str) -> None:
        """Raises `NotLeasedError` unless that task is the leased one."""
        if task != self.leased:
            raise NotLeasedError(
                f"task '{task}' cannot be {what} by consumer '{consumer}': it holds "
                f"{quoted(self.leased)}; lease a task before training it"
            )

    def _let_go(self, at: datetime) -> None:
        """Hold no task any more, from that moment on."""
        if self.leased is not None:
            self.since[self.leased] = at
        self.leased, self.trained = None, False

    def status(
        self, tasks: Sequence[str], came: Mapping[str, datetime], now: float
    ) -> ConsumerStatus:
        """Where the consumer stands among the stream's tasks; `came` is when each was appended."""
        posted_at, progress = self.progress or (None, None)
        return {
            "generation": self.generation,
            "current_task": self.leased,
            "committed": len(self.commits),
            "ranks": len(self.ranks),
            "tasks": [
                self._task_state(index, task, self.since.get(task, came[task]))
                for index, task in enumerate(tasks)
            ],
            "progress": progress,
            "seconds_since_progress": None if posted_at is None else now - posted_at,
        }

    def _task_state(self, index: int, task: str, since: datetime) -> TaskState:
        if task in self.commits:
            state = "sealed"
        elif task == self.leased:
            state = "trained" if self.trained else "leased"
        else:
            state = "pending"
        return {"task": task, "index": index, "state": state, "since": since.isoformat()}


def quoted(task: str | None) -> str:
    """A task's name in a message."""
    return "none" if task is None else f"'{task}'"
