"""The watchdog on progress: it finds ranks that stand still, says where, and ends their group.

It runs in the driver, so that it outlives whatever holds a rank. Per rank it follows the pulse
(`actors.pulse`): a rank is *silent* when its process does not beat, as one that is stopped, and
*still* when it beats and does not move. Only time in which the watch itself was awake counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.failures import StreamFailedError
from actors.pulse import Pulse
from actors.rank_process import Finding, RankProcess, end, look_into
from system.engine.whereabouts import GATHER
from system.errors import StorageError
from system.storage.files import Folder
from system.storage.writer_lock import interrupt_main

SECONDS_BETWEEN_LOOKS = 1.0
#: A process that does not beat for so long is taken for dead: earlier than Ray does, after 600.
LONGEST_SILENCE = 300.0
#: Most that may count between two looks: more was spent by this process asleep or out of reach.
LONGEST_LOOK = 5.0
SECONDS_TO_ANSWER = 30.0

#: Calls a function on the process of each pulse, on its node; None where that did not answer.
OnNodes = Callable[[Callable[[RankProcess], Any], Sequence[Pulse]], list[Any]]


class StalledError(StreamFailedError):
    """No rank moved for `cluster.stall_seconds`; names the rank that holds the others, and where.

    The worker group was ended for it, and may be started again.
    """


@dataclass
class _Seen:
    pulse: Pulse
    silent: float = 0.0  # seconds without a beat
    still: float = 0.0  # seconds without a move


class StallWatch:
    """Watches one start of a worker group. `look` is to be called about once a second."""

    def __init__(
        self,
        limit: float,
        logs: Folder,
        say: Callable[[str], None],
        on_nodes: OnNodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        #: The stall that was found; from then on nothing is watched.
        self.found: StalledError | None = None
        #: Whether the stalled loop ran in this process, whose main thread was interrupted for it.
        self.interrupted = False
        self._logs, self._say, self._on_nodes, self._clock = logs, say, on_nodes, clock
        self._seen: dict[int, _Seen] = {}
        self._looked = clock()

    def look(self, pulses: Sequence[Pulse]) -> None:
        """Take in the pulses of now; where they show a stall, dump all stacks and end all ranks."""
        now = self._clock()
        passed, self._looked = min(now - self._looked, LONGEST_LOOK), now
        if self.found is not None:
            return
        for seen in self._seen.values():
            seen.silent += passed
            seen.still += passed
        for pulse in pulses:
            before = self._seen.setdefault(pulse.rank, _Seen(pulse))
            if pulse.number != before.pulse.number:
                before.silent = 0.0
            if pulse.moves != before.pulse.moves or pulse.waits:
                before.still = 0.0
            before.pulse = pulse
        if self._stalled():
            self._end()

    def _running(self) -> list[_Seen]:
        return [self._seen[r] for r in sorted(self._seen) if not self._seen[r].pulse.ended]

    def _stalled(self) -> bool:
        running, silence = self._running(), min(self.limit, LONGEST_SILENCE)
        return bool(running) and (
            any(seen.silent >= silence for seen in running)
            or all(seen.still >= self.limit for seen in running)
        )

    def _end(self) -> None:
        running = self._running()
        pulses = [seen.pulse for seen in running]
        findings: list[Finding | None] = self._on_nodes(look_into, pulses)
        places = [
            finding.place if finding is not None and finding.place else seen.pulse.place
            for finding, seen in zip(findings, running, strict=True)
        ]
        held = _holding(running, findings, places)
        line = "; ".join(_described(running[i], findings[i], places[i]) for i in held)
        file = f"stall-{pulses[0].process.mark}.log"
        self.found = StalledError(
            f"nothing goes on: {line}. All ranks' places and Python stacks are in "
            f"{self._logs.file_uri(file)}; docs/debugging.md says how to read them"
        )
        report = [f"limit: cluster.stall_seconds={self.limit:g}", f"cause: {line}"]
        for seen, finding, place in zip(running, findings, places, strict=True):
            report += ["", f"== {_described(seen, finding, place)}"]
            report.append("its node did not answer" if finding is None else finding.stacks)
        self._say(f"{line}; the workers are ended, their stacks are in {file} of the run's logs")
        own = [pulse for pulse in pulses if pulse.process.pid == os.getpid()]
        self._on_nodes(end, [pulse for pulse in pulses if pulse not in own])
        try:  # only now, as it may be the storage that does not answer
            self._logs.write(file, ("\n".join(report) + "\n").encode())
        except StorageError as error:
            self._say(f"the stacks could not be written: {error}")
        if own:  # without a worker group, the loop runs in this process
            self.interrupted = True
            interrupt_main()


def _holding(
    running: Sequence[_Seen], findings: Sequence[Finding | None], places: Sequence[str]
) -> list[int]:
    """Which of the ranks hold the others up, as far as that can be told."""
    every = range(len(running))
    beats = [i for i in every if running[i].silent >= max(LONGEST_LOOK, running[i].still / 2)]
    troubled = [i for i in every if (f := findings[i]) is None or f.trouble is not None]
    outside = [i for i in every if GATHER not in places[i].split(",")[0].split(": ")]
    fewest = min(seen.pulse.moves for seen in running)
    behind = [i for i in every if running[i].pulse.moves == fewest]
    for found in (troubled, beats, outside, behind):
        if found and len(found) < len(every):
            return list(found)
    return list(every)


def _described(seen: _Seen, finding: Finding | None, place: str) -> str:
    why = "its node does not answer" if finding is None else finding.trouble
    if why is None and seen.silent >= LONGEST_LOOK:
        why = f"its interpreter gave no sign for {seen.silent:.0f} s"
    standing = f"rank {seen.pulse.rank} stands still since {seen.still:.0f} s in [{place}]"
    return f"{standing}, {why}" if why else standing


def on_nodes(function: Callable[[RankProcess], Any], pulses: Sequence[Pulse]) -> list[Any]:
    """Call a function on the process of each pulse, all at once; on this node without Ray."""
    here = ray.get_runtime_context().get_node_id()
    calls: Mapping[int, Any] = {
        i: _call.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(pulse.process.node, soft=False)
        ).remote(function, pulse.process)
        for i, pulse in enumerate(pulses)
        if pulse.process.node != here
    }
    results: list[Any] = [
        None if i in calls else function(pulse.process) for i, pulse in enumerate(pulses)
    ]
    until = time.monotonic() + SECONDS_TO_ANSWER
    for i, call in calls.items():
        with suppress(RayError):  # its node is gone, or did not answer in time
            results[i] = ray.get(call, timeout=max(0.0, until - time.monotonic()))
    return results


@ray.remote(num_cpus=0, max_retries=0)
def _call(function: Callable[[RankProcess], Any], process: RankProcess) -> Any:
    return function(process)
