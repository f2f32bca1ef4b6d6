"""The process that task streams live in: a Ray actor for one run's stream, or for many runs'."""

from __future__ import annotations

import asyncio
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ray

from actors.pulse import Pulse, Pulses
from actors.settings import StreamSettings
from actors.state.task_stream_state import TaskStream
from system.errors import ConfigError

#: Calls in streams at one time: so many runs can stand still in their storage before others wait.
_THREADS = 64

#: Calls after which a consumer that waits for a task looks again.
_ENDS_A_WAIT = frozenset({"append", "close", "halt", "register"})


@dataclass
class _Served:
    """A stream, which its first call opens, and the lock that lets in one call at a time."""

    settings: StreamSettings
    stream: TaskStream | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def do(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of the stream, which is rebuilt from its journal if this process is new."""
        if self.stream is None:
            self.stream = self.settings.open()
        return getattr(self.stream, method)(*arguments, **named)


class TaskStreamServer:
    """The actor's class. Every call names its stream by its settings.

    So a process that starts anew needs no arguments: the first call for a stream opens it. Opened
    earlier, a journal's `StorageError` would become the actor's death, which reaches callers
    without its type, and would not be tried again once storage is back. The calls of one stream
    come one after the other, in threads, so that neither a stream whose storage is slow nor
    consumers that wait for a task hold back other streams.

    `only` is the stream of an actor that one run has for itself.
    """

    def __init__(self, only: StreamSettings | None) -> None:
        self._only = only
        self._streams: dict[str, _Served] = {}
        self._threads = ThreadPoolExecutor(_THREADS)
        self._pulses = Pulses()

    async def only(self) -> StreamSettings | None:
        """The stream that this actor was started for, if for one."""
        return self._only

    async def pulse(self, start: str, pulse: Pulse) -> None:
        """Keep the pulse of a worker; it waits for no stream."""
        self._pulses.put(start, pulse)

    async def pulses(self, start: str) -> list[Pulse]:
        """The last pulse of each worker of a group."""
        return self._pulses.of(start)

    async def forget_pulses(self, start: str) -> None:
        """Keep no pulse of a group that is over."""
        self._pulses.forget(start)

    async def call(
        self, settings: StreamSettings, method: str, *arguments: Any, **named: Any
    ) -> Any:
        """Call a method of `TaskSource` on that stream.

        Raises `ConfigError` for a stream that this actor does not serve, and what the call raises.
        """
        if method == "ready":  # waits, and must not hold the stream's turn meanwhile
            return await self.ready(settings, *arguments, **named)
        return await self._do(self._served(settings), method, *arguments, **named)

    async def ready(
        self, settings: StreamSettings, consumer: str, generation: int, patience: float = 0.0
    ) -> bool:
        """`TaskSource.ready`; looks again when something changed, not before."""
        served, until = self._served(settings), time.monotonic() + patience
        while True:
            changed = served.changed  # before the look, so that no change falls between
            if await self._do(served, "ready", consumer, generation):
                return True
            try:
                await asyncio.wait_for(changed.wait(), until - time.monotonic())
            except asyncio.TimeoutError:
                return False

    async def halt(self, consumer: str) -> None:
        """Halt that consumer in whatever stream it is, as `TaskSource.halt` does."""
        opened = [served for served in self._streams.values() if served.stream is not None]
        await asyncio.gather(*(self._do(served, "halt", consumer) for served in opened))

    async def leave(self, settings: StreamSettings) -> None:
        """Forget a stream; the next call for it opens it again, perhaps with another `until`."""
        served = self._served(settings)
        async with served.turn:
            if self._streams.get(settings.journal_uri) is served:
                del self._streams[settings.journal_uri]

    def _served(self, settings: StreamSettings) -> _Served:
        served = self._streams.get(settings.journal_uri)
        if served is None and self._only in (None, settings):
            served = self._streams[settings.journal_uri] = _Served(settings)
        elif served is not None and settings.goes_on_from(served.settings):
            # Its run died before it could leave, and a later one goes on to a later task. They
            # share the turn: what the dead one still asked for is over before the journal is read.
            served = self._streams[settings.journal_uri] = _Served(settings, turn=served.turn)
        if served is None or served.settings != settings:
            raise _another(settings)
        return served

    async def _do(self, served: _Served, method: str, *arguments: Any, **named: Any) -> Any:
        call = functools.partial(served.do, method, *arguments, **named)
        loop = asyncio.get_running_loop()
        # Streams are not thread-safe: the turn lets one thread at a time into each.
        async with served.turn:
            if self._streams.get(served.settings.journal_uri) is not served:
                raise _another(served.settings)  # left, or taken over, while this call waited
            result = await loop.run_in_executor(self._threads, call)
        if method in _ENDS_A_WAIT:
            # All who wait now hold the old event; who waits from now on gets the new one.
            served.changed.set()
            served.changed = asyncio.Event()
        return result


def _another(settings: StreamSettings) -> ConfigError:
    return ConfigError(
        f"{settings.journal_uri}: an actor of the same name serves another journal, benchmark or "
        "order of tasks; choose another run name or wait for the other run to end"
    )


# Bookkeeping needs no core; the calls are idempotent, so Ray may repeat those that a death cut off.
# A call that ends the process each time is given up: the worker group then starts again or ends.
TaskStreamActor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=8)(TaskStreamServer)
