"""The task stream as a named Ray actor, and the handle through which drivers and workers use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayTaskError

from actors.journal import begun_with
from actors.stream_state import TaskStream
from system.data.faults import Fault
from system.data.manifest import Manifest, SplitGrant
from system.errors import ConfigError
from system.stages.task_source import Lease, StreamConfig, StreamStatus
from system.storage.locations import absolute
from system.storage.run_directory import RunDirectory

if TYPE_CHECKING:  # it needs torch, which would take the actor seconds at each start
    from system.config import ExperimentConfig

__all__ = [
    "StreamSettings",
    "TaskStream",
    "TaskStreamActor",
    "TaskStreamHandle",
    "find_task_stream",
    "start_task_stream",
]

ATTEMPTS = 20  # at an actor that is just ending
SECONDS_BETWEEN_ATTEMPTS = 0.5


@dataclass(frozen=True)
class StreamSettings:
    """What a stream is opened from: paths or URIs that the actor's node can reach, and the order.

    `manifest_root` is the directory of manifest.json; `tasks` None stands for the manifest's order.
    """

    journal_uri: str
    manifest_root: str
    tasks: tuple[str, ...] | None = None
    evaluation_split: str = "test"
    config: StreamConfig = field(default_factory=StreamConfig)

    @classmethod
    def of(cls, experiment: ExperimentConfig, tasks: Sequence[str] | None) -> StreamSettings:
        """The stream of a run, in its run directory; see `StreamSettings.tasks`."""
        return cls(
            RunDirectory.of(experiment).stream.uri,
            experiment.benchmark_folder().uri,
            None if tasks is None else tuple(tasks),
            experiment.evaluation.split,
            experiment.stream,
        )

    @classmethod
    def begun(cls, experiment: ExperimentConfig) -> StreamSettings:
        """The stream of a run as its journal says that it began, or will begin."""
        uri = RunDirectory.of(experiment).stream.uri
        return cls.of(experiment, begun_with(uri) or experiment.benchmark.tasks)

    def open(self) -> TaskStream:
        """The stream in the caller's own process. Raises what manifest and stream raise."""
        return TaskStream(
            self.journal_uri,
            Manifest.load(self.manifest_root),
            self.tasks,
            evaluation_split=self.evaluation_split,
            config=self.config,
        )


class TaskStreamServer:
    """What runs in the actor's process: a `TaskStream` that is opened by the first call.

    Opening it in the constructor would turn a journal's `StorageError` into the actor's death,
    which reaches callers without its type, and would not be tried again once storage is back. All
    calls run in one event loop: a call is never in the middle of another, and those that wait for
    a task hold back nobody.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._stream: TaskStream | None = None
        self._changed = asyncio.Event()

    async def serves(self, settings: StreamSettings) -> bool:
        """Tell whether this actor was started with the same settings."""
        return self._settings == settings

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the stream, which is rebuilt from its journal if this process is new."""
        result = getattr(self._opened(), method)(*arguments)
        if method in _ENDS_A_WAIT:
            self._changed.set()
            self._changed = asyncio.Event()
        return result

    async def ready(self, consumer: str, generation: int, patience: float) -> bool:
        """See `TaskSource.ready`; looks again when something changed, not before."""
        until = time.monotonic() + patience
        while not self._opened().ready(consumer, generation):
            try:
                await asyncio.wait_for(self._changed.wait(), until - time.monotonic())
            except asyncio.TimeoutError:
                return False
        return True

    def _opened(self) -> TaskStream:
        if self._stream is None:
            self._stream = self._settings.open()
        return self._stream


#: What a consumer without a task waits for; a newer generation of it ends the wait too.
_ENDS_A_WAIT = frozenset({"append", "close", "halt", "register"})

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

    def ready(self, consumer: str, generation: int, patience: float = 0.0) -> bool:
        """See `TaskSource.ready`."""
        return cast(bool, self._answer(self.actor.ready.remote(consumer, generation, patience)))

    def append(self, tasks: Sequence[str], append_id: str | None = None) -> list[str]:
        """See `TaskSource.append`."""
        request = (list(tasks), append_id or uuid4().hex)  # one id, however often Ray calls
        return cast("list[str]", self._call("append", *request))

    def reorder(self, tasks: Sequence[str]) -> None:
        """See `TaskSource.reorder`."""
        self._call("reorder", list(tasks))

    def close(self) -> None:
        """See `TaskSource.close`."""
        self._call("close")

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
        """End the actor for good; its journal stays, and `start_task_stream` continues from it."""
        ray.kill(self.actor, no_restart=True)

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._answer(self.actor.call.remote(method, *arguments))

    def _answer(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except RayTaskError as error:
            raise error.cause from error


def find_task_stream(name: str, namespace: str | None) -> TaskStreamHandle | None:
    """The actor `name` if it runs; the handle does not keep it alive."""
    try:
        return TaskStreamHandle(ray.get_actor(name, namespace))
    except ValueError:
        return None


def start_task_stream(
    name: str, namespace: str | None, settings: StreamSettings
) -> TaskStreamHandle:
    """Start the actor `name`, or find it if it runs already, and return a handle to it.

    What `settings` name has to be in reach of any node on which the actor may be restarted. Raises
    what `StreamSettings.open` raises, and `ConfigError` when an actor of this name serves another
    journal, benchmark or order.
    """
    manifest = Manifest.load(settings.manifest_root)
    given = tuple(entry.name for entry in manifest.tasks) if settings.tasks is None else None
    settings = replace(
        settings,
        # The actor's process has another working directory, so relative paths end here.
        journal_uri=absolute(settings.journal_uri),
        manifest_root=absolute(settings.manifest_root),
        tasks=settings.tasks if given is None else given,
    )
    options = TaskStreamActor.options(name=name, namespace=namespace, get_if_exists=True)
    for more in reversed(range(ATTEMPTS)):
        actor: Any = options.remote(settings)
        handle = TaskStreamHandle(actor)
        try:
            if not ray.get(actor.serves.remote(settings)):
                raise ConfigError(
                    f"task stream '{name}': an actor of this name serves another journal, "
                    "benchmark or order of tasks; choose another run name or wait for the other "
                    "run to end"
                )
            handle.status()  # opens the journal, so that its faults show before training
            return handle
        except ActorDiedError:
            # By its name one was found that was just ending, as nobody used it any more.
            if not more:
                raise
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    raise AssertionError("the last attempt returns or raises")
