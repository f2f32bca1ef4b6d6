"""Handles of task streams in Ray actors, and the actors: one for a run, or shared by many runs."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast
from uuid import uuid4

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayTaskError

from actors.server import TaskStreamActor, TaskStreamServer
from actors.settings import StreamSettings
from system.stream.task_source import TaskSource

NAMESPACE = "promptide"  # of all actors here
ATTEMPTS = 20  # at an actor that is just ending
SECONDS_BETWEEN_ATTEMPTS = 0.5
SECONDS_TO_HALT = 1.0


#: The calls that a handle forwards; True: recorded once, by an id that its caller gives.
_CALLS = {
    name: "call_id" in inspect.signature(call).parameters
    for name, call in vars(TaskSource).items()
    if not name.startswith("_")
}


class TaskStreamHandle(TaskSource, Protocol):
    """A `TaskSource` that forwards to the stream's actor; may be pickled and sent to workers.

    A call waits while the actor restarts, and raises what the stream raised, by its own type. The
    actor lives as long as the handle that `start_task_stream` gave its first caller; one shared
    with other streams, as long as the `SharedStreams` of its driver.
    """

    actor: ActorHandle[TaskStreamServer]
    settings: StreamSettings

    def stop(self) -> None:
        """End the stream in memory; its journal stays, and whoever opens it continues from it."""
        ...


@dataclass(frozen=True)
class _Proxy:
    """A `TaskStreamHandle`: any call of `TaskSource` becomes a call of the actor."""

    actor: ActorHandle[TaskStreamServer]
    settings: StreamSettings
    shared: bool = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Asked for what is no field. Pickle and Ray look for special methods here: they must not
        # be forwarded, nor must this look at a field, as there is none yet while it is unpickled.
        if name not in _CALLS:
            raise AttributeError(f"a task stream has no call {name!r}; it has {sorted(_CALLS)}")
        return functools.partial(self._call, name)

    def stop(self) -> None:
        if self.shared:
            _answer(self.actor.leave.remote(self.settings))
        else:
            ray.kill(self.actor, no_restart=True)

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        if _CALLS[name] and named.get("call_id") is None:
            # Made here and not by the stream: when the actor dies, Ray repeats a call with the
            # same id, also one that was recorded already and whose answer was lost.
            named["call_id"] = uuid4().hex
        return _answer(self.actor.call.remote(self.settings, name, *arguments, **named))


def _answer(call: Any) -> Any:
    try:
        return ray.get(call)
    except RayTaskError as error:
        raise error.cause from error


def _handle(actor: Any, settings: StreamSettings, shared: bool = False) -> TaskStreamHandle:
    return cast(TaskStreamHandle, _Proxy(actor, settings, shared))


def stream_name(run_name: str) -> str:
    """Name of a run's actor in `NAMESPACE`."""
    return f"task-stream-{run_name}"


def find_task_stream(name: str, namespace: str | None) -> TaskStreamHandle | None:
    """The actor `name` if it runs; the handle does not keep it alive."""
    try:
        actor: Any = ray.get_actor(name, namespace)
        settings: StreamSettings = ray.get(actor.only.remote())
    except (ValueError, ActorDiedError):  # no such actor, or it just ended
        return None
    return _handle(actor, settings)


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
        handle = _handle(actor, settings)
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
    """One actor for the streams of many runs, such as the trials of a sweep.

    Each run has a cursor and a journal of its own, and none waits for another. The actor is known
    by `name` in every process of the driver that started it, and ends with that driver. When its
    process dies, each run goes on from its own journal, as with an actor of its own.
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
        handle = _handle(self.actor, settings.anywhere(), shared=True)
        handle.status()  # opens the journal, so that its faults show before training
        return handle

    def halt(self, run_name: str) -> None:
        """End a run soon, if need be in the middle of a task."""
        # Waits no longer than that: the run's stream may hang in its storage.
        ray.wait([self.actor.halt.remote(run_name)], timeout=SECONDS_TO_HALT)

    def stop(self) -> None:
        """End the actor; the journals stay."""
        ray.kill(self.actor, no_restart=True)
