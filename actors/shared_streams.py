"""One actor for the streams of many runs, such as the trials of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import ray
from ray.actor import ActorHandle

from actors.handle import TaskStreamHandle
from actors.server import TaskStreamActor, TaskStreamServer
from actors.settings import StreamSettings

NAMESPACE = "promptide"
SECONDS_TO_HALT = 1.0


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
