"""The task stream through Ray: the handle that drivers and workers use, and how one is reached."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayTaskError

from actors.server import TaskStreamActor, TaskStreamServer
from actors.settings import StreamSettings
from system.data.shards.faults import Fault
from system.data.shards.manifest import SplitHandle
from system.stream.task_source import Lease, StreamStatus

NAMESPACE = "promptide"  # of all actors here
ATTEMPTS = 20  # at an actor that is just ending
SECONDS_BETWEEN_ATTEMPTS = 0.5
SECONDS_TO_HALT = 1.0


@dataclass(frozen=True)
class TaskStreamHandle:
    """A `TaskSource` that forwards to the actor; may be pickled and sent to workers.

    A call waits while the actor restarts, and raises what the stream raised, by its own type. The
    actor lives as long as the handle that `start_task_stream` gave its first caller; `shared` with
    other streams, as long as the `SharedStreams` of its driver.
    """

    actor: ActorHandle[TaskStreamServer]
    settings: StreamSettings
    shared: bool = False

    def register(self, consumer: str, replays: bool = False) -> int:
        """See `TaskSource.register`."""
        return cast(int, self._call("register", consumer, replays))

    def lease(self, consumer: str, generation: int) -> Lease | None:
        """See `TaskSource.lease`."""
        return cast("Lease | None", self._call("lease", consumer, generation))

    def ready(self, consumer: str, generation: int, patience: float = 0.0) -> bool:
        """See `TaskSource.ready`."""
        request = (self.settings, consumer, generation, patience)
        return cast(bool, self._answer(self.actor.ready.remote(*request)))

    def append(
        self,
        tasks: Sequence[str],
        append_id: str | None = None,
        order: Sequence[str] | None = None,
    ) -> list[str]:
        """See `TaskSource.append`."""
        # One id, however often Ray calls.
        request = (list(tasks), append_id or uuid4().hex, None if order is None else list(order))
        return cast("list[str]", self._call("append", *request))

    def reorder(self, tasks: Sequence[str]) -> None:
        """See `TaskSource.reorder`."""
        self._call("reorder", list(tasks))

    def close(self) -> None:
        """See `TaskSource.close`."""
        self._call("close")

    def open_split(
        self,
        consumer: str,
        generation: int,
        rank: int,
        task: str,
        split: str,
        shards_rows: int | None = None,
    ) -> SplitHandle:
        """See `TaskSource.open_split`."""
        # The id is made here, once, so that a call Ray repeats is recorded once.
        request = (consumer, generation, rank, task, split, shards_rows, uuid4().hex)
        return cast(SplitHandle, self._call("open_split", *request))

    def quarantine(
        self, consumer: str, generation: int, task: str, split: str, broken: Mapping[int, Fault]
    ) -> int:
        """See `TaskSource.quarantine`."""
        request = (consumer, generation, task, split, dict(broken))
        return cast(int, self._call("quarantine", *request))

    def quarantined(self, consumer: str) -> list[Fault]:
        """See `TaskSource.quarantined`."""
        return cast("list[Fault]", self._call("quarantined", consumer))

    def trained(self, consumer: str, generation: int, task: str) -> None:
        """See `TaskSource.trained`."""
        self._call("trained", consumer, generation, task)

    def commit(self, consumer: str, generation: int, task: str, payload: Mapping[str, Any]) -> None:
        """See `TaskSource.commit`."""
        self._call("commit", consumer, generation, task, dict(payload))

    def committed(self, consumer: str) -> list[dict[str, Any]]:
        """See `TaskSource.committed`."""
        return cast("list[dict[str, Any]]", self._call("committed", consumer))

    def post_progress(self, consumer: str, progress: Mapping[str, Any]) -> None:
        """See `TaskSource.post_progress`."""
        self._call("post_progress", consumer, dict(progress))

    def halt(self, consumer: str) -> None:
        """See `TaskSource.halt`."""
        self._call("halt", consumer)

    def status(self) -> StreamStatus:
        """See `TaskSource.status`."""
        return cast(StreamStatus, self._call("status"))

    def access_log(self) -> pa.Table:
        """See `TaskSource.access_log`."""
        return self._call("access_log")

    def stop(self) -> None:
        """End the stream in memory; its journal stays, and whoever opens it continues from it."""
        if self.shared:
            self._answer(self.actor.leave.remote(self.settings))
        else:
            ray.kill(self.actor, no_restart=True)

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._answer(self.actor.call.remote(self.settings, method, *arguments))

    @staticmethod
    def _answer(call: Any) -> Any:
        try:
            return ray.get(call)
        except RayTaskError as error:
            raise error.cause from error


def stream_name(run_name: str) -> str:
    """What the actor of a run is called in `NAMESPACE`."""
    return f"task-stream-{run_name}"


def find_task_stream(name: str, namespace: str | None) -> TaskStreamHandle | None:
    """The actor `name` if it runs; the handle does not keep it alive."""
    try:
        actor: Any = ray.get_actor(name, namespace)
        settings: StreamSettings = ray.get(actor.only.remote())
    except (ValueError, ActorDiedError):  # no such actor, or it just ended
        return None
    return TaskStreamHandle(actor, settings)


def start_task_stream(
    name: str, namespace: str | None, settings: StreamSettings
) -> TaskStreamHandle:
    """Start the actor `name`, or find it if it runs already, and return a handle to it.

    What `settings` name has to be in reach of any node on which the actor may be restarted. Raises
    what `StreamSettings.open` raises, and `ConfigError` when an actor of this name serves another
    journal, benchmark or order.
    """
    settings = settings.anywhere()
    options = TaskStreamActor.options(name=name, namespace=namespace, get_if_exists=True)
    for more in reversed(range(ATTEMPTS)):
        actor: Any = options.remote(settings)
        handle = TaskStreamHandle(actor, settings)
        try:
            handle.status()  # opens the journal, so that its faults show before training
            return handle
        except ActorDiedError:
            # By its name one was found that was just ending, as nobody used it any more.
            if not more:
                raise
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    raise AssertionError("the last attempt returns or raises")


@dataclass(frozen=True)
class SharedStreams:
    """Where each run has a cursor and a journal of its own, and none waits for another.

    Known by `name` in every process of the driver that started it, and ends with that driver. When
    the actor's process dies, each run goes on from its own journal, as with an actor of its own.
    """

    name: str
    actor: ActorHandle[TaskStreamServer]

    @classmethod
    def start(cls) -> SharedStreams:
        """A new actor, without any stream yet."""
        name = f"task-streams-{uuid4().hex}"
        options: Any = TaskStreamActor.options(name=name, namespace=NAMESPACE)
        return cls(name, options.remote(None))

    @classmethod
    def find(cls, name: str) -> SharedStreams:
        """The one that the driver started."""
        return cls(name, cast("ActorHandle[TaskStreamServer]", ray.get_actor(name, NAMESPACE)))

    def stream(self, settings: StreamSettings) -> TaskStreamHandle:
        """A run's stream. Raises what `StreamSettings.open` raises."""
        handle = TaskStreamHandle(self.actor, settings.anywhere(), shared=True)
        handle.status()  # opens the journal, so that its faults show before training
        return handle

    def halt(self, run_name: str) -> None:
        """End a run soon, in the middle of a task if it must be."""
        # No longer than that: it may stand still in its storage.
        ray.wait([self.actor.halt.remote(run_name)], timeout=SECONDS_TO_HALT)

    def stop(self) -> None:
        """End the actor; the journals stay."""
        ray.kill(self.actor, no_restart=True)
