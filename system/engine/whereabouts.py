"""Where a worker is: phase, task, epoch, step; others read it even while its process is stopped."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO

#: Of a collective: where a rank waits for the others.
GATHER = "gather"
#: Of a run that has no task at the moment: it may stand there for as long as it takes.
WAIT = "wait"
SHARED_BYTES = 1024


class Whereabouts:
    """The place of one worker: its phases, the outer one first, and the task, epoch and step.

    Each change of it is progress, and counted in `moves`. Epochs and steps count from 0.
    """

    def __init__(self) -> None:
        self.phases: tuple[str, ...] = ()
        self.task: str | None = None
        self.epoch: int | None = None
        self.step: int | None = None
        self.moves = 0
        #: Gets a line when a phase begins that is neither a collective nor a wait for a task.
        self.listener: Callable[[str], None] | None = None
        self._shared: mmap.mmap | None = None
        self._ahead = b""

    def __str__(self) -> str:
        place = [": ".join(self.phases) or "between two phases"]
        place += [] if self.task is None else [f"task {self.task!r}"]
        place += [] if self.epoch is None else [f"epoch {self.epoch}"]
        place += [] if self.step is None else [f"step {self.step}"]
        return ", ".join(place)

    @contextmanager
    def doing(self, phase: str) -> Iterator[None]:
        """Be in a phase, inside those that the worker is in."""
        before = self.phases
        self.phases = (*before, phase)
        if phase not in (GATHER, WAIT) and self.listener is not None:
            self.listener("begins")
        self.move()
        try:
            yield
        finally:
            self.phases = before
            self.move()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Have epochs and steps inside the block, and none after it."""
        try:
            yield
        finally:
            self.epoch = self.step = None

    def at(self, epoch: int, step: int) -> None:
        """Be at a step of an epoch."""
        self.epoch, self.step = epoch, step
        self.move()

    def move(self) -> None:
        """Count a sign of progress."""
        self.moves += 1
        if self._shared is not None:
            text = self._ahead + str(self).encode(errors="replace")[: SHARED_BYTES - 1]
            self._shared[: len(text) + 1] = text + b"\0"

    def share(self, mark: str) -> IO[bytes]:
        """Keep the place in a file of no name, behind a line with `mark`.

        Other processes of this node read it as `/proc/<pid>/fd/<fileno>`, also while this one is
        stopped. Returns the file, which has to stay open.
        """
        self._ahead = f"{mark}\n".encode()
        file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
        file.truncate(len(self._ahead) + SHARED_BYTES)
        self._shared = mmap.mmap(file.fileno(), 0)
        self.move()
        return file

    def unshare(self) -> None:
        """Keep the place in memory alone again."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared[:] = bytes(len(shared))
            shared.close()


_HERE: ContextVar[Whereabouts] = ContextVar("whereabouts")


def here() -> Whereabouts:
    """The place of the worker whose thread this is."""
    try:
        return _HERE.get()
    except LookupError:
        place = Whereabouts()
        _HERE.set(place)
        return place


@contextmanager
def new_place() -> Iterator[Whereabouts]:
    """A place of its own for the worker that runs in the block."""
    place = Whereabouts()
    token = _HERE.set(place)
    try:
        yield place
    finally:
        _HERE.reset(token)
