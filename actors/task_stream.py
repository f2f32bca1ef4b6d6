"""The task stream as a named Ray actor, and the handle through which drivers and workers use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

from actors.stream_state import TaskStream
from system.data.manifest import Manifest, SplitGrant
from system.errors import ConfigError
from system.stages.task_source import Lease, StreamStatus
from system.storage.locations import absolute

__all__ = [
    "TaskStream",
    "TaskStreamActor",
    "TaskStreamHandle",
    "find_task_stream",
    "start_task_stream",
]


class TaskStreamServer:
    """What runs in the actor's process: a `TaskStream` that is opened by the first call.

    Opening it in the constructor would turn a journal's `StorageError` into the actor's death,
    which reaches callers without its type, and would not be tried again once storage is back.
    """

    def __init__(
        self, journal_uri: str, manifest_root: str, tasks: list[str], evaluation_split: str
    ) -> None:
        self._settings = (journal_uri, manifest_root, tasks, evaluation_split)
        self._stream: TaskStream | None = None

    def serves(self, *settings: Any) -> bool:
        """Tell whether this actor was started with the same arguments."""
        return self._settings == settings

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the stream, which is rebuilt from its journal if this process is new."""
        if self._stream is None:
            journal_uri, manifest_root, tasks, evaluation_split = self._settings
            manifest = Manifest.load(manifest_root)
            self._stream = TaskStream(
                journal_uri, manifest, tasks, evaluation_split=evaluation_split
            )
        return getattr(self._stream, method)(*arguments)


# Bookkeeping needs no core; the calls are idempotent, so Ray may repeat those that a death cut off.
# A call that ends the process each time is given up: the worker group then starts again or ends.
TaskStreamActor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=8)(TaskStreamServer)


@dataclass(frozen=True)
class TaskStreamHandle:
    """A `TaskSource` that forwards to the actor; may be pickled and sent to workers.

    A call waits while the actor restarts, and raises what the stream raised, by its own type. The
    actor lives as long as the handle that `start_task_stream` gave its first caller.
    """

    actor: ActorHandle[TaskStreamServer]

    def register(self, consumer: str, replays: bool = False) -> int:
        """See `TaskSource.register`."""
        return cast(int, self._call("register", consumer, replays))

    def lease(self, consumer: str, generation: int) -> Lease | None:
        """See `TaskSource.lease`."""
        return cast("Lease | None", self._call("lease", consumer, generation))

    def renew(self, consumer: str, generation: int) -> None:
        """See `TaskSource.renew`."""
        self._call("renew", consumer, generation)

    def open_split(
        self,
        consumer: str,
        generation: int,
        rank: int,
        task: str,
        split: str,
        shards_rows: int | None = None,
    ) -> SplitGrant:
        """See `TaskSource.open_split`."""
        # The id is made here, once, so that a call Ray repeats is recorded once.
        request = (consumer, generation, rank, task, split, shards_rows, uuid4().hex)
        return cast(SplitGrant, self._call("open_split", *request))

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

    def close(self) -> None:
        """See `TaskSource.close`."""
        self._call("close")

    def status(self) -> StreamStatus:
        """See `TaskSource.status`."""
        return cast(StreamStatus, self._call("status"))

    def access_log(self) -> pa.Table:
        """See `TaskSource.access_log`."""
        return self._call("access_log")

    def stop(self) -> None:
        """End the actor for good; its journal stays, and `start_task_stream` continues from it."""
        ray.kill(self.actor, no_restart=True)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(self.actor.call.remote(method, *arguments))
        except RayTaskError as error:
            raise error.cause from error


def find_task_stream(name: str, namespace: str | None) -> TaskStreamHandle | None:
    """The actor `name` if it runs; the handle does not keep it alive."""
    try:
        return TaskStreamHandle(ray.get_actor(name, namespace))
    except ValueError:
        return None


def start_task_stream(
    name: str,
    namespace: str | None,
    journal_uri: str,
    manifest_root: str,
    tasks: Sequence[str] | None = None,
    evaluation_split: str = "test",
) -> TaskStreamHandle:
    """Start the actor `name`, or find it if it runs already, and return a handle to it.

    `journal_uri` and `manifest_root` (the directory of manifest.json) are paths or URIs that the
    actor's node can reach, and any other node on which it may be restarted. `tasks` is the order of
    the stream, by default the manifest's; `evaluation_split` is open for every task. Raises what
    `Manifest.load` and `TaskStream` raise, and `ConfigError` when an actor of this name serves
    another journal, benchmark or order.
    """
    manifest = Manifest.load(manifest_root)
    order = [entry.name for entry in manifest.tasks] if tasks is None else list(tasks)
    # The actor's process has another working directory, so relative paths end here.
    settings = (absolute(journal_uri), absolute(manifest_root), order, evaluation_split)
    options = TaskStreamActor.options(name=name, namespace=namespace, get_if_exists=True)
    actor: Any = options.remote(*settings)
    handle = TaskStreamHandle(actor)
    if not ray.get(actor.serves.remote(*settings)):
        raise ConfigError(
            f"task stream '{name}': an actor of this name serves another journal, benchmark or "
            f"order of tasks; choose another run name or wait for the other run to end"
        )
    handle.status()  # opens the journal, so that what is wrong with it shows before training
    return handle
