"""What the journal's records of a task stream amount to: changed by applying records, and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from actors.journal.journal_record import Record
from actors.state.access_log import AccessLog
from actors.state.cursor import Cursor
from actors.state.stream_tasks import StreamTasks
from system.errors import StorageError


class StreamMemory:
    """The stream's tasks, its consumers' cursors and the access log.

    `clock` tells when a lease was renewed.
    """

    def __init__(self, tasks: StreamTasks, clock: Callable[[], float]) -> None:
        self.tasks = tasks
        self.cursors: dict[str, Cursor] = {}
        self.newest_generation = 0
        self.opens = AccessLog()
        self._clock = clock
        self._appliers: dict[str, Callable[[Record], None]] = {
            "register": self._register,
            "lease": self._lease,
            "open": self._open,
            **dict.fromkeys(("trained", "expire", "commit", "quarantine"), self._to_cursor),
            "append": tasks.apply_append,
            "order": tasks.apply_order,
            "close": tasks.apply_close,
        }

    def apply(self, record: Record, journal: str) -> None:
        """Take in the next record. Raises `StorageError`, naming `journal`, for an unknown kind."""
        apply = self._appliers.get(record.kind)
        if apply is None:
            raise StorageError(
                f"{journal}: record {record.sequence} is of unknown kind '{record.kind}'; continue "
                "with the promptide that wrote it"
            )
        apply(record)

    def state(self) -> dict[str, Any]:
        """All of it for JSON, except what only this process remembers."""
        return {
            "tasks": self.tasks.state(),
            "cursors": {name: cursor.state() for name, cursor in self.cursors.items()},
            "newest_generation": self.newest_generation,
            "opens": self.opens.state(),
        }

    def state_as(self, names: Mapping[str, str]) -> dict[str, Any]:
        """The state with the consumers' names changed, in the access log too."""
        state: dict[str, Any] = json.loads(json.dumps(self.state()))
        state["cursors"] = {names[name]: cursor for name, cursor in state["cursors"].items()}
        columns = state["opens"]["columns"]
        columns["consumer"] = [names[name] for name in columns["consumer"]]
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken."""
        self.tasks.restore(state["tasks"])
        self.cursors = {name: Cursor.of(cursor) for name, cursor in state["cursors"].items()}
        self.newest_generation = state["newest_generation"]
        self.opens.restore(state["opens"])

    def _register(self, record: Record) -> None:
        cursor = self.cursors.setdefault(record.payload["consumer"], Cursor())
        self.newest_generation = record.payload["generation"]
        cursor.renewed = self._clock()
        self._to_cursor(record)

    def _lease(self, record: Record) -> None:
        self.tasks.take(record.payload["task"])
        self._to_cursor(record)

    def _open(self, record: Record) -> None:
        self.opens.add(record.payload["id"], record.at, record.payload)
        self._to_cursor(record)

    def _to_cursor(self, record: Record) -> None:
        self.cursors[record.payload["consumer"]].apply(record.kind, record.at, record.payload)
