"""State of a task stream in memory, changed by applying the journal's records alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa

from actors.journal.record_files import Record
from actors.state.cursor import Cursor
from actors.state.stream_tasks import StreamTasks
from system.errors import StorageError

ACCESS_LOG_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("opened_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("consumer", pa.string(), nullable=False),
        pa.field("current_task", pa.string()),  # null: the consumer held no lease at that moment
    ]
)

_EPOCH, _MICROSECOND = datetime.fromtimestamp(0, timezone.utc), timedelta(microseconds=1)
_IDS_KEPT = 1000


class AccessLog:
    """Opens of splits, oldest first, each known by the id that its caller gave it."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in ACCESS_LOG_SCHEMA.names}
        self._ids: dict[str, None] = {}  # in order

    def __len__(self) -> int:
        return len(self._columns["task"])

    def __contains__(self, open_id: str) -> bool:
        return open_id in self._ids

    def add(self, open_id: str, opened_at: datetime, entry: Mapping[str, Any]) -> None:
        """Append one open; `entry` has every column of the schema except `opened_at`."""
        self._ids[open_id] = None
        for name, values in self._columns.items():
            values.append(opened_at if name == "opened_at" else entry[name])

    def state(self) -> dict[str, Any]:
        """State for `restore`, as JSON: columns, times in microseconds since 1970.

        Only the newest ids are kept: a call is repeated at once or not at all.
        """
        times = [(at - _EPOCH) // _MICROSECOND for at in self._columns["opened_at"]]
        return {
            "columns": {**self._columns, "opened_at": times},
            "ids": list(self._ids)[-_IDS_KEPT:],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold what the log held when `state` was taken."""
        times = [_EPOCH + at * _MICROSECOND for at in state["columns"]["opened_at"]]
        self._columns = {**state["columns"], "opened_at": times}
        self._ids = dict.fromkeys(state["ids"])

    def table(self) -> pa.Table:
        """Return all opens so far as a table of `ACCESS_LOG_SCHEMA`, oldest first."""
        return pa.table(self._columns, schema=ACCESS_LOG_SCHEMA)


class StreamMemory:
    """The stream's tasks, its consumers' cursors and the access log."""

    def __init__(self, tasks: StreamTasks) -> None:
        self.tasks = tasks
        self.cursors: dict[str, Cursor] = {}
        self.newest_generation = 0
        self.opens = AccessLog()
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
        self.cursors.setdefault(record.payload["consumer"], Cursor())
        self.newest_generation = record.payload["generation"]
        self._to_cursor(record)

    def _lease(self, record: Record) -> None:
        self.tasks.take(record.payload["task"])
        self._to_cursor(record)

    def _open(self, record: Record) -> None:
        self.opens.add(record.payload["id"], record.at, record.payload)
        self._to_cursor(record)

    def _to_cursor(self, record: Record) -> None:
        self.cursors[record.payload["consumer"]].apply(record.kind, record.at, record.payload)
