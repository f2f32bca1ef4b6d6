"""The task stream as a worker loop sees it: a protocol, so that `system` needs no actor to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import pyarrow as pa

from system.data.shards.faults import Fault
from system.data.shards.manifest import SplitHandle
from system.errors import PromptideError


class StaleGenerationError(RuntimeError):
    """Call of a worker group that a newer one of the same consumer has replaced."""


class StreamHaltedError(PromptideError):
    """A consumer was halted while it learned a task: a sweep stopped this run."""


class StreamClosedError(PromptideError):
    """A task was appended to a stream that takes no more."""


class StreamFullError(PromptideError):
    """More tasks were appended than the stream keeps pending."""


class NotLeasedError(RuntimeError):
    """A task was committed that the consumer does not hold a lease on."""


@dataclass(frozen=True)
class Lease:
    """The right to train one task. It ends with its commit, or with a newer group's `register`.

    `index` is the task's place in the stream, `generation` the worker group that holds the lease,
    `committed` how many tasks the consumer had committed when it was given.
    """

    task: str
    index: int
    generation: int
    committed: int


class TaskState(TypedDict):
    """One task of a consumer; `state` is "pending", "leased", "trained" or "sealed".

    From "trained" on its training split is shut. "sealed" is evaluated and committed: one record
    holds both, so that no task is ever the one without the other. `since` is when it came to that
    state (ISO 8601, UTC).
    """

    task: str
    index: int
    state: str
    since: str


class ConsumerStatus(TypedDict):
    """Where one consumer stands.

    `ranks` is how many workers of this generation have opened a split, `progress` what it posted
    last (None: nothing since the stream's process started), which was `seconds_since_progress`
    seconds ago.
    """

    generation: int
    current_task: str | None
    committed: int
    ranks: int
    tasks: list[TaskState]
    progress: dict[str, Any] | None
    seconds_since_progress: float | None


class StreamStatus(TypedDict):
    """The whole stream; `journal` names where it is kept, `consumers` all that ever registered.

    `open` tells whether tasks may still be appended, `pending` which ones nobody was handed yet,
    `given` all tasks in the order in which they came.
    """

    journal: str
    benchmark: str
    fingerprint: str
    tasks: list[str]
    open: bool
    given: list[str]
    pending: list[str]
    max_pending: int
    consumers: dict[str, ConsumerStatus]


class TaskSource(Protocol):
    """Hands tasks and their splits, one task at a time, to the consumers of a stream.

    A consumer is one run (or one trial of a sweep), whatever its number of workers. Every change is
    durable before its call returns, and every call may be repeated without harm. Each may raise
    `StorageError` when the journal cannot be written.
    """

    def register(self, consumer: str, replays: bool = False) -> int:
        """Start a worker group: returns its generation, larger than any before.

        Earlier generations of the same consumer get `StaleGenerationError` from then on, and the
        task they held has to be leased anew. A consumer that declares that it `replays` may open
        past tasks' training splits too; the access log has these opens all the same.
        """
        ...

    def lease(self, consumer: str, generation: int) -> Lease | None:
        """Return the first task not yet committed (the same until it is), None after the last.

        None also once the consumer is halted, and where the stream ends for now before its last
        task. In a live stream there may be neither a task nor an end: ask `ready` first. Raises
        `NotLeasedError` if so, `StaleGenerationError`.
        """
        ...

    def ready(self, consumer: str, generation: int, patience: float = 0.0) -> bool:
        """Whether `lease` has an answer: a task, or the end.

        Waits for one up to `patience` seconds where the stream can wait. Raises
        `StaleGenerationError`.
        """
        ...

    def append(
        self,
        tasks: Sequence[str],
        order: Sequence[str] | None = None,
        *,
        call_id: str | None = None,
    ) -> list[str]:
        """Put tasks of the benchmark at the end of a live stream; returns all pending ones.

        With `order` all pending tasks come in that order from now on, the new ones among them: both
        or neither, whatever dies. An append repeated with its `call_id` changes nothing. Raises
        `StreamClosedError`, `StreamFullError`, `ConfigError` (unknown, or in the stream already; or
        others are pending than `order` has).
        """
        ...

    def reorder(self, tasks: Sequence[str]) -> None:
        """Hand out the pending tasks in this order. Raises `ConfigError` if they are others."""
        ...

    def close(self) -> None:
        """Take no more tasks: the stream ends after those it has."""
        ...

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
        """Hand out a split after recording the open in the access log.

        The stream's evaluation splits ("test" unless configured otherwise) are open for every task,
        all else for the leased task only. `shards_rows` is how many rows this rank will read, by
        default all. A call repeated with its `call_id` is recorded once. Raises
        `ReplayRefusedError` (another task's "train" or "val"), `DataError` (no such task or split),
        `StaleGenerationError`.
        """
        ...

    def quarantine(
        self, consumer: str, generation: int, task: str, split: str, broken: Mapping[int, Fault]
    ) -> int:
        """Quarantine rows of a split for this consumer: later handles leave them out.

        `broken` is by the rows' numbers in the shards; each is recorded once, and how many are new
        is returned. Only what the consumer may open. Raises what `open_split` does.
        """
        ...

    def quarantined(self, consumer: str) -> list[Fault]:
        """Return the faults of the rows that the consumer quarantined, oldest first.

        Empty for a consumer that never registered.
        """
        ...

    def trained(self, consumer: str, generation: int, task: str) -> None:
        """Say that the leased task has its last epoch behind it: its training split is shut.

        A worker group that starts anew leases the task anew, and may open the split again. Raises
        `NotLeasedError`, `StaleGenerationError`.
        """
        ...

    def commit(self, consumer: str, generation: int, task: str, payload: Mapping[str, Any]) -> None:
        """End the leased task and keep `payload` (JSON-able; tuples come back as lists).

        A second commit of the same task changes nothing: the first payload stays. Raises
        `NotLeasedError`, `StaleGenerationError`, `TypeError` (payload is not JSON-able).
        """
        ...

    def committed(self, consumer: str, first: int = 0) -> list[dict[str, Any]]:
        """Return the payloads that the consumer committed, in the order of the tasks.

        From the task with index `first` on. Empty for a consumer that never registered.
        """
        ...

    def post_progress(self, consumer: str, progress: Mapping[str, Any]) -> None:
        """Show `progress` in `status`: kept in memory only, lost when the stream's process dies.

        Raises `StreamHaltedError` once the consumer is halted, which ends a worker inside a task.
        """
        ...

    def halt(self, consumer: str) -> None:
        """Hand out no more tasks to a consumer, who ends soon. What is committed stays.

        Kept in memory only: a stream that is started again goes on.
        """
        ...

    def status(self) -> StreamStatus:
        """Return where every consumer stands."""
        ...

    def access_log(self) -> pa.Table:
        """Return every open so far, oldest first, as in the run directory's access_log.parquet."""
        ...
