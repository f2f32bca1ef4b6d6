"""The task stream's state machine: every change is a journal record first, then memory.

Memory is changed only by applying records, so a process that starts anew and applies the whole
journal stands exactly where the dead one had acknowledged to stand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any
from uuid import uuid4

import pyarrow as pa
from typing_extensions import override

from actors.journal.journal import Journal
from actors.state.cursor import Cursor, quoted
from actors.state.stream_memory import StreamMemory
from actors.state.stream_tasks import StreamTasks
from system.config.schema import StreamConfig
from system.data.shards.faults import Fault
from system.data.shards.manifest import Manifest, SplitHandle
from system.errors import DataError, ReplayRefusedError
from system.storage.files import Folder
from system.stream.task_source import (
    Lease,
    NotLeasedError,
    StaleGenerationError,
    StreamHaltedError,
    StreamStatus,
    TaskSource,
)

#: Records, one file each, before a snapshot takes their place.
COMPACT_AFTER = 1000


class TaskStream(TaskSource):
    """A `TaskSource` in the caller's own process, kept in the journal at `journal_uri`.

    `tasks` is the order of the stream, by default the manifest's, and of a live one the start;
    `evaluation_splits` are open for every task, and all others are treated as training data. The
    journal is compacted every `compact_after` records, later where the access log is long. No more
    than `until` tasks are handed out. Not for several threads at once. Raises `ConfigError`
    (`tasks` repeats a task or names one that the manifest lacks) and `StorageError` (see
    `Journal`).
    """

    def __init__(
        self,
        journal_uri: str,
        manifest: Manifest,
        tasks: Sequence[str] | None = None,
        evaluation_splits: Sequence[str] = ("test",),
        config: StreamConfig | None = None,
        compact_after: int = COMPACT_AFTER,
        until: int | None = None,
    ) -> None:
        config = config or StreamConfig()
        self._evaluation_splits = tuple(evaluation_splits)
        self._manifest, self._fingerprint = manifest, manifest.fingerprint
        known = [entry.name for entry in manifest.tasks]
        self._tasks = StreamTasks(known, tasks, config.live, config.max_pending, until)
        self._memory = StreamMemory(self._tasks)
        self._journal = Journal(
            Folder.of(journal_uri), self._fingerprint, self._tasks.names, config.live
        )
        self._compact_after = compact_after
        self._tasks.begin(self._journal.header)
        if self._journal.state is not None:
            self._memory.restore(self._journal.state)
        for record in self._journal.records:
            self._memory.apply(record, self._journal.location)

    @override
    def register(self, consumer: str, replays: bool = False) -> int:
        generation = self._memory.newest_generation + 1
        entry = {"consumer": consumer, "generation": generation, "replays": replays}
        self._record("register", entry)
        return generation

    @override
    def lease(self, consumer: str, generation: int) -> Lease | None:
        cursor = self._cursor(consumer, generation)
        index = len(cursor.commits)
        if cursor.halted or self._tasks.end_at(index):
            return None
        if index == len(self._tasks.names):
            raise NotLeasedError(f"no task is there for consumer '{consumer}' yet: ask until ready")
        task = self._tasks.names[index]
        if cursor.leased != task:
            self._record("lease", {"consumer": consumer, "generation": generation, "task": task})
        return Lease(task, index, generation, committed=index)

    @override
    def ready(self, consumer: str, generation: int, patience: float = 0.0) -> bool:
        # No waiting: nobody can change the stream during this call.
        cursor, tasks = self._cursor(consumer, generation), self._tasks
        index = len(cursor.commits)
        return index < len(tasks.names) or cursor.halted or tasks.end_at(index)

    @override
    def append(
        self,
        tasks: Sequence[str],
        order: Sequence[str] | None = None,
        *,
        call_id: str | None = None,
    ) -> list[str]:
        call_id = call_id or uuid4().hex
        if not self._tasks.appended(call_id):
            self._tasks.check_append(tasks, order)
            entry: dict[str, Any] = {"id": call_id, "tasks": list(tasks)}
            # The order of all that are pending is written only where the new ones do not come last.
            if order is not None and list(order) != [*self._tasks.pending, *tasks]:
                entry["order"] = list(order)
            self._record("append", entry)
        return self._tasks.pending

    @override
    def reorder(self, tasks: Sequence[str]) -> None:
        self._tasks.check_order(tasks)
        if list(tasks) != self._tasks.pending:
            self._record("order", {"tasks": list(tasks)})

    @override
    def close(self) -> None:
        if self._tasks.open:
            self._record("close", {})

    @override
    def open_split(
        self,
        consumer: str,
        generation: int,
        rank: int,
        task: str,
        split: str,
        shards_rows: int | None = None,
        *,
        call_id: str | None = None,
    ) -> SplitHandle:
        cursor = self._cursor(consumer, generation)
        handle = self._handle(cursor, task, split)
        replay = cursor.replays and task in cursor.commits
        current = task == cursor.leased and not (cursor.trained and not cursor.replays)
        repeated = call_id is not None and call_id in self._memory.opens
        if split not in self._evaluation_splits and not (current or replay or repeated):
            state = " (trained)" if cursor.trained else ""
            raise ReplayRefusedError(
                f"split '{split}' of task '{task}' is refused to consumer '{consumer}': its "
                f"current task is {quoted(cursor.leased)}{state}, and only the current task's may "
                "be read, until it is trained"
            )
        rows = handle.rows if shards_rows is None else shards_rows
        if rows < 0:
            raise DataError(f"split '{split}' of task '{task}': cannot read {rows} rows")
        if not repeated:
            entry = {
                "id": call_id or uuid4().hex,
                "task": task,
                "split": split,
                "rows": rows,
                "generation": generation,
                "rank": rank,
                "consumer": consumer,
                "current_task": cursor.leased,
            }
            self._record("open", entry)
        return handle

    @override
    def quarantine(
        self, consumer: str, generation: int, task: str, split: str, broken: Mapping[int, Fault]
    ) -> int:
        cursor = self._cursor(consumer, generation)
        if not cursor.replays:
            cursor.require_lease(consumer, task, "quarantined in part")
        known = cursor.quarantined.get((task, split), {})
        new = [[row, *astuple(broken[row])] for row in sorted(broken) if row not in known]
        if new:
            place = {"consumer": consumer, "generation": generation, "task": task, "split": split}
            self._record("quarantine", {**place, "rows": new})
        return len(new)

    @override
    def quarantined(self, consumer: str) -> list[Fault]:
        cursor = self._memory.cursors.get(consumer, Cursor())
        return [fault for rows in cursor.quarantined.values() for fault in rows.values()]

    @override
    def trained(self, consumer: str, generation: int, task: str) -> None:
        cursor = self._cursor(consumer, generation)
        if task in cursor.commits or (task == cursor.leased and cursor.trained):
            return
        cursor.require_lease(consumer, task, "marked as trained")
        self._record("trained", {"consumer": consumer, "generation": generation, "task": task})

    @override
    def commit(self, consumer: str, generation: int, task: str, payload: Mapping[str, Any]) -> None:
        cursor = self._cursor(consumer, generation)
        if task in cursor.commits:
            return
        cursor.require_lease(consumer, task, "committed")
        place = {"consumer": consumer, "generation": generation, "task": task}
        self._record("commit", {**place, "payload": dict(payload)})

    @override
    def committed(self, consumer: str, first: int = 0) -> list[dict[str, Any]]:
        cursor = self._memory.cursors.get(consumer)
        return list(cursor.commits.values())[first:] if cursor else []

    @override
    def post_progress(self, consumer: str, progress: Mapping[str, Any]) -> None:
        cursor = self._memory.cursors.get(consumer)
        if cursor is None:
            return
        if cursor.halted:
            raise StreamHaltedError(f"'{consumer}' was halted; what is committed stays")
        cursor.progress = (time.monotonic(), dict(progress))

    @override
    def halt(self, consumer: str) -> None:
        if consumer in self._memory.cursors:
            self._memory.cursors[consumer].halted = True

    @override
    def status(self) -> StreamStatus:
        now, tasks = time.monotonic(), self._tasks
        return {
            "journal": self._journal.location,
            "benchmark": self._manifest.benchmark,
            "fingerprint": self._fingerprint,
            "tasks": list(tasks.names),
            "open": tasks.open,
            "given": list(tasks.since),
            "pending": tasks.pending,
            "max_pending": tasks.max_pending,
            "consumers": {
                name: cursor.status(tasks.names, tasks.since, now)
                for name, cursor in self._memory.cursors.items()
            },
        }

    @override
    def access_log(self) -> pa.Table:
        return self._memory.opens.table()

    def begin_as(self, consumer: str, earlier: TaskStream, run: str) -> None:
        """Take over another run's stream, whose consumer `run` is called `consumer` here."""
        state = earlier._memory.state_as({run: consumer})
        self._journal.compact(state)
        self._memory.restore(state)

    def compact(self) -> None:
        """Replace the journal's records by a snapshot; the stream also does so by itself."""
        self._journal.compact(self._memory.state())

    def _record(self, kind: str, payload: Mapping[str, Any]) -> None:
        # The opens are what grows: so each of them is written again some ten times in all.
        if self._journal.tail >= max(self._compact_after, len(self._memory.opens) // 10):
            self.compact()
        self._memory.apply(self._journal.append(kind, payload), self._journal.location)

    def _cursor(self, consumer: str, generation: int) -> Cursor:
        cursor = self._memory.cursors.get(consumer)
        if cursor is None or generation != cursor.generation:
            newest = cursor.generation if cursor else "none"
            raise StaleGenerationError(
                f"generation {generation} of consumer '{consumer}' is not the newest ({newest}): "
                f"another worker group has taken over, or this one did not register"
            )
        return cursor

    def _handle(self, cursor: Cursor, task: str, split: str) -> SplitHandle:
        if task not in self._tasks.names:
            raise DataError(
                f"task '{task}' is not in the stream; its tasks are {self._tasks.names}"
            )
        handle = self._manifest.task(task).handle(split)
        return handle.leaving_out(cursor.quarantined.get((task, split), ()))
