"""Pulses of workers: each posts every second that it lives, and how often it moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray

from actors.rank_process import RankProcess


@dataclass(frozen=True)
class Pulse:
    """One beat of a worker; `number` counts its beats and `moves` its progress."""

    rank: int
    process: RankProcess
    number: int
    moves: int
    place: str
    waits: bool = False  # for a task that is not there yet
    ended: bool = False  # its loop: it beats no more


@dataclass
class Pulses:
    """The last pulse of each rank, by the start of the worker group; a part of an actor."""

    _last: dict[str, dict[int, Pulse]] = field(default_factory=dict)

    def put(self, start: str, pulse: Pulse) -> None:
        """Keep a rank's pulse; one that was overtaken on its way changes nothing."""
        ranks = self._last.setdefault(start, {})
        if pulse.rank not in ranks or ranks[pulse.rank].number < pulse.number:
            ranks[pulse.rank] = pulse

    def of(self, start: str) -> list[Pulse]:
        """The pulses of one start of a worker group."""
        return list(self._last.get(start, {}).values())

    def forget(self, start: str) -> None:
        """Keep no pulse of a start that is over."""
        self._last.pop(start, None)


@dataclass(frozen=True)
class PulseBoard:
    """Where the pulses of one start of a worker group are posted; may be sent to workers.

    `actor` has the methods `pulse`, `pulses` and `forget_pulses`; see `Pulses`.
    """

    actor: Any
    start: str

    def post(self, pulse: Pulse) -> Any:
        """Send a pulse without waiting; returns what tells when it has arrived."""
        return self.actor.pulse.remote(self.start, pulse)

    def pulses(self, patience: float) -> list[Pulse]:
        """The last pulse of each rank that beat yet. Raises RayError, also after `patience`."""
        found: list[Pulse] = ray.get(self.actor.pulses.remote(self.start), timeout=patience)
        return found

    def forget(self) -> None:
        """Have the actor forget them, without waiting."""
        self.actor.forget_pulses.remote(self.start)
