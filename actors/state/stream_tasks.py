"""The tasks of a stream in their order: given at the start, or growing while it is live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from actors.journal.record_files import Record
from system.errors import ConfigError
from system.stream.task_source import StreamClosedError, StreamFullError


class StreamTasks:
    """Which tasks the stream has, which of them are pending, and whether more may come.

    Pending are the tasks behind the furthest one that any consumer was ever handed. A live stream
    is open until it is closed; another one is closed from the start. Changed by records alone.
    `until` is how many tasks are handed out for now: the journal knows nothing of it.
    """

    def __init__(
        self,
        known: Sequence[str],
        tasks: Sequence[str] | None,
        live: bool,
        max_pending: int,
        until: int | None = None,
    ) -> None:
        self.known = list(known)
        self.names = self._checked(list(known) if tasks is None else list(tasks))
        if not self.names and not live:
            raise ConfigError(f"tasks: {self.names} must name at least one task")
        self.live = live
        self.open = live
        self.max_pending = max_pending
        self.until = until
        self.reached = 0  # one more than the place of the furthest task handed out
        self.since: dict[str, datetime] = {}  # when a task came into the stream
        self._appends: set[str] = set()

    @property
    def pending(self) -> list[str]:
        """The tasks that nobody was handed yet, in order."""
        return self.names[self.reached :]

    def end_at(self, index: int) -> bool:
        """Whether a consumer that comes to that place has come to the end."""
        return index == self.until or (index == len(self.names) and not self.open)

    def appended(self, call_id: str) -> bool:
        """Whether that append is in the journal already."""
        return call_id in self._appends

    def check_append(self, tasks: Sequence[str], order: Sequence[str] | None = None) -> None:
        """Raises the error of an append that cannot be, and changes nothing."""
        if not self.open:
            why = "was closed" if self.live else "was given whole at its start (stream.live=false)"
            raise StreamClosedError(f"the stream {why}: it takes no more tasks; start another run")
        if not tasks:
            raise ConfigError("no task to append: name at least one")
        self._checked(tasks)
        there = [task for task in tasks if task in self.names]
        if there:
            raise ConfigError(f"tasks: {there} are in the stream already; a task is learned once")
        if len(tasks) > self.max_pending:
            raise ConfigError(
                f"{len(tasks)} tasks at once are more than stream.max_pending={self.max_pending} "
                "ever lets wait; append them in parts"
            )
        room = self.max_pending - len(self.pending)
        if len(tasks) > room:
            raise StreamFullError(
                f"{len(self.pending)} tasks are pending, and stream.max_pending={self.max_pending} "
                f"leaves room for {max(room, 0)}, not for {len(tasks)}: append again once tasks "
                "were taken, or with --wait"
            )
        if order is not None:
            self.check_order(order, tasks)

    def check_order(self, order: Sequence[str], new: Sequence[str] = ()) -> None:
        """Raises ConfigError unless `order` is the pending tasks and the new ones, rearranged."""
        pending = [*self.pending, *new]
        if sorted(order) != sorted(pending):
            raise ConfigError(
                f"the pending tasks are {pending}, not {list(order)}: one was taken or "
                "appended meanwhile; give the order again"
            )

    def begin(self, header: Record) -> None:
        """The tasks of the start stand in the journal's header."""
        self.since = dict.fromkeys(self.names, header.at)

    def apply_append(self, record: Record) -> None:
        """New tasks come last, or all that are pending in an order of their own."""
        payload: Mapping[str, Any] = record.payload
        self._appends.add(payload["id"])
        self.names += payload["tasks"]
        if "order" in payload:
            self.names[self.reached :] = payload["order"]
        self.since |= dict.fromkeys(payload["tasks"], record.at)

    def apply_order(self, record: Record) -> None:
        """The pending tasks come in another order from now on."""
        self.names[self.reached :] = record.payload["tasks"]

    def apply_close(self, _: Record) -> None:
        """No more tasks will come."""
        self.open = False

    def take(self, task: str) -> None:
        """A consumer was handed a task: its place and those before are settled."""
        self.reached = max(self.reached, self.names.index(task) + 1)

    def state(self) -> dict[str, Any]:
        """State for `restore`, as JSON."""
        return {
            "names": self.names,
            "open": self.open,
            "reached": self.reached,
            "since": {task: at.isoformat() for task, at in self.since.items()},
            "appends": sorted(self._appends),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken."""
        self.names, self.open, self.reached = state["names"], state["open"], state["reached"]
        self.since = {task: datetime.fromisoformat(at) for task, at in state["since"].items()}
        self._appends = set(state["appends"])

    def _checked(self, tasks: Sequence[str]) -> list[str]:
        unknown = [task for task in tasks if task not in self.known]
        if unknown:
            raise ConfigError(f"tasks: {unknown} are not in the benchmark; it has {self.known}")
        if len(set(tasks)) < len(tasks):
            raise ConfigError(f"tasks: {list(tasks)} must name none twice")
        return list(tasks)
