"""The task stream's state machine: every change is a journal record first, then memory.

Memory is changed only by applying records, so a process that starts anew and applies the whole
journal stands exactly where the dead one had acknowledged to stand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyarrow import fs

from actors.access_log import AccessLog
from actors.journal import Journal, Record
from system.data.manifest import Manifest, SplitGrant
from system.errors import ConfigError, DataError, ReplayRefusedError, StorageError
from system.stages.task_source import (
    ConsumerStatus,
    Lease,
    NotLeasedError,
    StaleGenerationError,
    StreamClosedError,
    StreamStatus,
    TaskState,
)


@dataclass
class _Cursor:
    """One consumer's place in the stream."""

    generation: int = 0
    leased: str | None = None
    replays: bool = False  # declared: it may read past tasks' training splits
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)  # task -> payload, in order


class TaskStream:
    """A `TaskSource` in the caller's own process, kept in the journal at `journal_uri`.

    `tasks` is the order of the stream, by default the manifest's; `evaluation_split` is open for
    every task, and all others are treated as training data. Not for several threads at once. Raises
    `ConfigError` (`tasks` repeats a task or names one that the manifest lacks) and
    `StorageError` (see `Journal`).
    """

    def __init__(
        self,
        journal_uri: str,
        manifest: Manifest,
        tasks: Sequence[str] | None = None,
        filesystem: fs.FileSystem | None = None,
        evaluation_split: str = "test",
    ) -> None:
        self._evaluation_split = evaluation_split
        self._manifest, self._fingerprint = manifest, manifest.fingerprint
        self._tasks = _checked_order(tasks, [entry.name for entry in manifest.tasks])
        self._cursors: dict[str, _Cursor] = {}
        self._newest_generation = 0
        self._opens = AccessLog()
        self._progress: dict[str, tuple[float, dict[str, Any]]] = {}
        self._closed = False
        self._appliers: dict[str, Callable[[Record], None]] = {
            "register": self._apply_register,
            "lease": self._apply_lease,
            "open": self._apply_open,
            "commit": self._apply_commit,
        }
        self._journal = Journal(journal_uri, self._fingerprint, self._tasks, filesystem)
        for record in self._journal.records[1:]:
            self._apply(record)

    def register(self, consumer: str, replays: bool = False) -> int:
        """See `TaskSource.register`; generations are never used twice, whoever the consumer."""
        generation = self._newest_generation + 1
        self._record(
            "register", {"consumer": consumer, "generation": generation, "replays": replays}
        )
        return generation

    def lease(self, consumer: str, generation: int) -> Lease | None:
        """See `TaskSource.lease`."""
        cursor = self._cursor(consumer, generation)
        index = len(cursor.commits)
        if index == len(self._tasks) or self._closed:
            return None
        task = self._tasks[index]
        if cursor.leased != task:
            self._record("lease", {"consumer": consumer, "generation": generation, "task": task})
        return Lease(task, index, generation, committed=index)

    def open_split(
        self,
        consumer: str,
        generation: int,
        rank: int,
        task: str,
        split: str,
        shards_rows: int | None = None,
        open_id: str | None = None,
    ) -> SplitGrant:
        """See `TaskSource.open_split`; a call repeated with its `open_id` is recorded once."""
        cursor = self._cursor(consumer, generation)
        grant = self._grant(task, split)
        replay = cursor.replays and task in cursor.commits
        if split != self._evaluation_split and task != cursor.leased and not replay:
            raise ReplayRefusedError(
                f"split '{split}' of task '{task}' is refused to consumer '{consumer}': its "
                f"current task is {_quoted(cursor.leased)}, and only the current task's may be read"
            )
        rows = grant.rows if shards_rows is None else shards_rows
        if rows < 0:
            raise DataError(f"split '{split}' of task '{task}': cannot read {rows} rows")
        open_id = open_id or uuid4().hex
        if open_id not in self._opens:
            entry = {
                "id": open_id,
                "task": task,
                "split": split,
                "rows": rows,
                "generation": generation,
                "rank": rank,
                "consumer": consumer,
                "current_task": cursor.leased,
            }
            self._record("open", entry)
        return grant

    def commit(self, consumer: str, generation: int, task: str, payload: Mapping[str, Any]) -> None:
        """See `TaskSource.commit`."""
        cursor = self._cursor(consumer, generation)
        if task in cursor.commits:
            return
        if task != cursor.leased:
            raise NotLeasedError(
                f"task '{task}' cannot be committed by consumer '{consumer}': it holds "
                f"{_quoted(cursor.leased)}; lease a task before training it"
            )
        self._record(
            "commit",
            {
                "consumer": consumer,
                "generation": generation,
                "task": task,
                "payload": dict(payload),
            },
        )

    def committed(self, consumer: str) -> list[dict[str, Any]]:
        """See `TaskSource.committed`; empty for a consumer that never registered."""
        cursor = self._cursors.get(consumer)
        return list(cursor.commits.values()) if cursor else []

    def post_progress(self, consumer: str, progress: Mapping[str, Any]) -> None:
        """See `TaskSource.post_progress`."""
        if self._closed:
            raise StreamClosedError("the stream was closed; what is committed stays")
        self._progress[consumer] = (time.monotonic(), dict(progress))

    def close(self) -> None:
        """See `TaskSource.close`."""
        self._closed = True

    def status(self) -> StreamStatus:
        """See `TaskSource.status`."""
        return {
            "journal": self._journal.location,
            "benchmark": self._manifest.benchmark,
            "fingerprint": self._fingerprint,
            "tasks": list(self._tasks),
            "consumers": {
                name: self._consumer_status(name, cursor) for name, cursor in self._cursors.items()
            },
        }

    def access_log(self) -> pa.Table:
        """See `TaskSource.access_log`; the schema is `actors.access_log.ACCESS_LOG_SCHEMA`."""
        return self._opens.table()

    def _record(self, kind: str, payload: Mapping[str, Any]) -> None:
        self._apply(self._journal.append(kind, payload))

    def _apply(self, record: Record) -> None:
        apply = self._appliers.get(record.kind)
        if apply is None:
            raise StorageError(
                f"{self._journal.location}: record {record.sequence} is of unknown kind "
                f"'{record.kind}'; continue with the promptide that wrote it"
            )
        apply(record)

    def _apply_register(self, record: Record) -> None:
        cursor = self._cursors.setdefault(record.payload["consumer"], _Cursor())
        self._newest_generation = cursor.generation = record.payload["generation"]
        cursor.leased = None
        cursor.replays = record.payload.get("replays", False)

    def _apply_lease(self, record: Record) -> None:
        self._cursors[record.payload["consumer"]].leased = record.payload["task"]

    def _apply_open(self, record: Record) -> None:
        self._opens.add(record.payload["id"], record.at, record.payload)

    def _apply_commit(self, record: Record) -> None:
        cursor = self._cursors[record.payload["consumer"]]
        cursor.commits[record.payload["task"]] = record.payload["payload"]
        cursor.leased = None

    def _cursor(self, consumer: str, generation: int) -> _Cursor:
        cursor = self._cursors.get(consumer)
        if cursor is None or generation != cursor.generation:
            newest = cursor.generation if cursor else "none"
            raise StaleGenerationError(
                f"generation {generation} of consumer '{consumer}' is not the newest ({newest}): "
                f"another worker group has taken over, or this one did not register"
            )
        return cursor

    def _grant(self, task: str, split: str) -> SplitGrant:
        if task not in self._tasks:
            raise DataError(f"task '{task}' is not in the stream; its tasks are {self._tasks}")
        return self._manifest.task(task).grant(split)

    def _consumer_status(self, name: str, cursor: _Cursor) -> ConsumerStatus:
        posted_at, progress = self._progress.get(name, (None, None))
        return {
            "generation": cursor.generation,
            "current_task": cursor.leased,
            "committed": len(cursor.commits),
            "tasks": [_task_state(cursor, i, task) for i, task in enumerate(self._tasks)],
            "progress": progress,
            "seconds_since_progress": None if posted_at is None else time.monotonic() - posted_at,
        }


def _task_state(cursor: _Cursor, index: int, task: str) -> TaskState:
    held = "leased" if task == cursor.leased else "pending"
    return {
        "task": task,
        "index": index,
        "state": "committed" if task in cursor.commits else held,
    }


def _checked_order(tasks: Sequence[str] | None, known: list[str]) -> list[str]:
    order = known if tasks is None else list(tasks)
    unknown = [task for task in order if task not in known]
    if unknown:
        raise ConfigError(f"tasks: {unknown} are not in the benchmark; it has {known}")
    if len(set(order)) < len(order) or not order:
        raise ConfigError(f"tasks: {order} must name at least one task, and none twice")
    return order


def _quoted(task: str | None) -> str:
    return "none" if task is None else f"'{task}'"
