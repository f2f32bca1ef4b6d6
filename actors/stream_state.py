"""The task stream's state machine: every change is a journal record first, then memory.

Memory is changed only by applying records, so a process that starts anew and applies the whole
journal stands exactly where the dead one had acknowledged to stand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyarrow import fs

from actors.access_log import AccessLog
from actors.cursor import Cursor
from actors.journal import Journal, Record
from system.data.manifest import Manifest, SplitGrant
from system.errors import ConfigError, DataError, ReplayRefusedError, StorageError
from system.stages.task_source import (
    Lease,
    NotLeasedError,
    StaleGenerationError,
    StreamClosedError,
    StreamStatus,
)

#: A renewal comes every few seconds; a group may stand still for so long, on a full machine, say.
LEASE_SECONDS = 300.0


class TaskStream:
    """A `TaskSource` in the caller's own process, kept in the journal at `journal_uri`.

    `tasks` is the order of the stream, by default the manifest's; `evaluation_split` is open for
    every task, and all others are treated as training data. A lease that its holder does not renew
    for `LEASE_SECONDS` by `clock` expires. Not for several threads at once. Raises
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._evaluation_split = evaluation_split
        self._manifest, self._fingerprint = manifest, manifest.fingerprint
        self._tasks = _checked_order(tasks, [entry.name for entry in manifest.tasks])
        self._cursors: dict[str, Cursor] = {}
        self._newest_generation = 0
        self._opens = AccessLog()
        self._clock = clock
        self._closed = False
        self._appliers: dict[str, Callable[[Record], None]] = {
            "register": self._apply_register,
            "lease": self._apply_lease,
            "open": self._apply_open,
            "trained": self._apply_trained,
            "expire": self._apply_expire,
            "commit": self._apply_commit,
        }
        self._journal = Journal(journal_uri, self._fingerprint, self._tasks, filesystem)
        for record in self._journal.records[1:]:
            self._apply(record)
        for cursor in self._cursors.values():
            cursor.renewed = clock()  # nobody could renew a lease while this process was away

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

    def renew(self, consumer: str, generation: int) -> None:
        """See `TaskSource.renew`."""
        self._cursor(consumer, generation)

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
        current = task == cursor.leased and not (cursor.trained and not cursor.replays)
        repeated = open_id is not None and open_id in self._opens
        if split != self._evaluation_split and not (current or replay or repeated):
            if task == cursor.expired:
                self._require_lease(cursor, consumer, task, "opened")
            state = " (trained)" if cursor.trained else ""
            raise ReplayRefusedError(
                f"split '{split}' of task '{task}' is refused to consumer '{consumer}': its "
                f"current task is {_quoted(cursor.leased)}{state}, and only the current task's may "
                "be read, until it is trained"
            )
        rows = grant.rows if shards_rows is None else shards_rows
        if rows < 0:
            raise DataError(f"split '{split}' of task '{task}': cannot read {rows} rows")
        if not repeated:
            entry = {
                "id": open_id or uuid4().hex,
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

    def trained(self, consumer: str, generation: int, task: str) -> None:
        """See `TaskSource.trained`."""
        cursor = self._cursor(consumer, generation)
        if task in cursor.commits or (task == cursor.leased and cursor.trained):
            return
        self._require_lease(cursor, consumer, task, "marked as trained")
        self._record("trained", {"consumer": consumer, "generation": generation, "task": task})

    def commit(self, consumer: str, generation: int, task: str, payload: Mapping[str, Any]) -> None:
        """See `TaskSource.commit`."""
        cursor = self._cursor(consumer, generation)
        if task in cursor.commits:
            return
        self._require_lease(cursor, consumer, task, "committed")
        self._record(
            "commit",
            {
                "consumer": consumer,
                "generation": generation,
                "task": task,
                "payload": dict(payload),
            },
        )

    def _require_lease(self, cursor: Cursor, consumer: str, task: str, what: str) -> None:
        if task != cursor.leased:
            raise NotLeasedError(
                f"task '{task}' cannot be {what} by consumer '{consumer}': it holds "
                f"{_quoted(cursor.leased)}; lease a task before training it, and renew the lease"
            )

    def committed(self, consumer: str) -> list[dict[str, Any]]:
        """See `TaskSource.committed`; empty for a consumer that never registered."""
        cursor = self._cursors.get(consumer)
        return list(cursor.commits.values()) if cursor else []

    def post_progress(self, consumer: str, progress: Mapping[str, Any]) -> None:
        """See `TaskSource.post_progress`."""
        if self._closed:
            raise StreamClosedError("the stream was closed; what is committed stays")
        cursor = self._cursors.get(consumer)
        if cursor is not None:
            cursor.progress = (self._clock(), dict(progress))

    def close(self) -> None:
        """See `TaskSource.close`."""
        self._closed = True

    def status(self) -> StreamStatus:
        """See `TaskSource.status`."""
        for name, cursor in self._cursors.items():
            self._expire(name, cursor)
        now = self._clock()
        return {
            "journal": self._journal.location,
            "benchmark": self._manifest.benchmark,
            "fingerprint": self._fingerprint,
            "tasks": list(self._tasks),
            "consumers": {
                name: cursor.status(self._tasks, now) for name, cursor in self._cursors.items()
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
        cursor = self._cursors.setdefault(record.payload["consumer"], Cursor())
        self._newest_generation = cursor.generation = record.payload["generation"]
        cursor.renewed = self._clock()
        cursor.leased, cursor.trained = None, False
        cursor.replays = record.payload.get("replays", False)

    def _apply_lease(self, record: Record) -> None:
        cursor = self._cursors[record.payload["consumer"]]
        cursor.leased, cursor.trained, cursor.expired = record.payload["task"], False, None

    def _apply_trained(self, record: Record) -> None:
        self._cursors[record.payload["consumer"]].trained = True

    def _apply_open(self, record: Record) -> None:
        self._opens.add(record.payload["id"], record.at, record.payload)

    def _apply_commit(self, record: Record) -> None:
        cursor = self._cursors[record.payload["consumer"]]
        cursor.commits[record.payload["task"]] = record.payload["payload"]
        cursor.leased, cursor.trained = None, False

    def _apply_expire(self, record: Record) -> None:
        cursor = self._cursors[record.payload["consumer"]]
        cursor.leased, cursor.trained, cursor.expired = None, False, record.payload["task"]

    def _expire(self, consumer: str, cursor: Cursor) -> None:
        if cursor.leased is None or self._clock() - cursor.renewed <= LEASE_SECONDS:
            return
        lost = {"consumer": consumer, "generation": cursor.generation, "task": cursor.leased}
        self._record("expire", lost)

    def _cursor(self, consumer: str, generation: int) -> Cursor:
        cursor = self._cursors.get(consumer)
        if cursor is None or generation != cursor.generation:
            newest = cursor.generation if cursor else "none"
            raise StaleGenerationError(
                f"generation {generation} of consumer '{consumer}' is not the newest ({newest}): "
                f"another worker group has taken over, or this one did not register"
            )
        self._expire(consumer, cursor)
        cursor.renewed = self._clock()
        return cursor

    def _grant(self, task: str, split: str) -> SplitGrant:
        if task not in self._tasks:
            raise DataError(f"task '{task}' is not in the stream; its tasks are {self._tasks}")
        return self._manifest.task(task).grant(split)


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
