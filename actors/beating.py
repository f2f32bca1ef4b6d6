"""The loop of a worker with a pulse: its place and its stacks can be looked at from outside."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError

from actors.pulse import Pulse, PulseBoard
from actors.rank_process import RankProcess
from system.engine.whereabouts import WAIT, Whereabouts, new_place
from system.repeating import repeating

SECONDS_BETWEEN_BEATS = 1.0
#: Has a worker write its threads' Python stacks, also where its interpreter is blocked.
DUMP = signal.SIGUSR2


def beating_loop(config: Mapping[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`: the loop in `config`, with a pulse.

    `config`: {"loop": the run's own, "config": what that takes, "board": a PulseBoard}.
    """
    with new_place() as place, beating(config["board"], place):
        config["loop"](config["config"])


@contextmanager
def beating(board: PulseBoard, place: Whereabouts) -> Iterator[None]:
    """Post this worker's pulse while the block runs; its stacks and its place can be looked at."""
    rank = ray.train.get_context().get_world_rank()
    node = ray.get_runtime_context().get_node_id()
    # Files of no name leave nothing behind, however the process ends.
    with place.share(board.start) as shared, tempfile.TemporaryFile() as stacks:
        faulthandler.register(DUMP, stacks, all_threads=True)
        process = RankProcess(
            os.getpid(), node, board.start, shared.fileno(), stacks.fileno(), int(DUMP)
        )

        def pulse(number: int, *, ended: bool = False) -> Pulse:
            waits = WAIT in place.phases
            return Pulse(rank, process, number, place.moves, str(place), waits, ended)

        heart = _Heart(lambda number: board.post(pulse(number)))
        try:
            with repeating(
                heart.beat,
                SECONDS_BETWEEN_BEATS,
                name="promptide-pulse",
                passing=(RayError,),  # a heart that stops would look like a process that did
                at_once=True,
            ):
                yield
        finally:
            place.unshare()  # first, as nobody sends the signal to who has no place
            faulthandler.unregister(DUMP)
            with suppress(RayError):
                board.post(pulse(heart.beats + 1, ended=True))


class _Heart:
    """Posts the number of a beat, one more at each call."""

    def __init__(self, post: Callable[[int], Any]) -> None:
        self.beats = 0
        self._post = post
        self._pending: list[Any] = []

    def beat(self) -> None:
        """Post the next one, unless the last has not arrived: they must not pile up."""
        if not self._pending or ray.wait(self._pending, timeout=0)[0]:
            self.beats += 1
            self._pending = [self._post(self.beats)]
