"""Logs of workers: one file per rank and start in the run directory, and seconds by phase."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone

from system.storage.files import Folder


class RankLog:
    """The lines of one worker process; the file is written whole at each `publish`.

    An object store has no append, and a worker writes a few lines per task.
    """

    def __init__(self, folder: Folder, rank: int, generation: int) -> None:
        self.folder = folder
        self.rank = rank
        self.name = f"rank-{rank}-start-{generation}.log"
        self.task: str | None = None
        self._lines: list[str] = []

    def add(self, text: str) -> None:
        """Note something, with the time."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._lines.append(f"{now} {text}")

    def publish(self) -> None:
        """Write all lines so far to storage."""
        self.folder.write(self.name, ("\n".join(self._lines) + "\n").encode())

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Log how the block ended: the traceback of an error goes to the file and on."""
        try:
            yield
        except Exception:
            self.add(f"rank {self.rank} failed in task {self.task}\n{traceback.format_exc()}")
            self.publish()
            raise
        self.add("the worker has ended")
        self.publish()


@dataclass
class PhaseClock:
    """Seconds spent by phase since the last `take`."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's time to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds by phase; starts anew."""
        taken, self.seconds = self.seconds, {}
        return taken
