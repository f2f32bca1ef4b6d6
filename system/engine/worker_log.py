"""Logs of workers: one file per rank and start in the run directory, and seconds by phase."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone

from system.engine.whereabouts import here
from system.errors import StorageError
from system.redaction import redacted
from system.repeating import repeating
from system.storage.files import Folder, is_local, storage_errors

#: Between two lines that say no more than where the worker is by now.
SECONDS_BETWEEN_PLACES = 30.0
#: Between two writes to storage that cannot append: each writes a whole part anew.
SECONDS_BETWEEN_WRITES = 5.0
#: Of a file there, before the next one begins.
PART_BYTES = 1 << 18


class RankLog:
    """The lines of one worker process, in a file as they happen.

    Each line has the time (UTC) and where the worker was: phase, task, epoch, step. On a local path
    a line is in the file when `add` returns. An object store has no append: there the lines come
    every `SECONDS_BETWEEN_WRITES` inside `ending`, in files of `PART_BYTES`.
    """

    def __init__(self, folder: Folder, rank: int, generation: int) -> None:
        self.folder = folder
        self.rank = rank
        self.place = here()
        self.place.listener = self.add
        self._stem = f"rank-{rank}-start-{generation}"
        self._part = 1
        self._written = b""  # of this part, where storage cannot append
        self._pending: list[bytes] = []
        self._noting, self._writing = threading.Lock(), threading.Lock()
        self._appends = is_local(folder.filesystem)

    @property
    def name(self) -> str:
        """The file that is written to now."""
        return f"{self._stem}.log" if self._part == 1 else f"{self._stem}-part-{self._part}.log"

    def add(self, text: str) -> None:
        """Note something, with the time and the place; never raises."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        lines = "".join(
            f"{now} [{self.place}] {line}\n" for line in redacted(text).splitlines() or [""]
        )
        with self._noting:
            self._pending.append(lines.encode(errors="backslashreplace"))
        if self._appends:
            with suppress(StorageError):  # the line stays pending
                self.publish()

    def publish(self) -> None:
        """Write the lines that are not in storage yet. Raises StorageError; they stay pending."""
        with self._writing:
            with self._noting:  # and not while storage takes its time
                count, data = len(self._pending), b"".join(self._pending)
            if not data:
                return
            if self._appends:
                self._append(data)
            else:
                self.folder.write(self.name, self._written + data)
                self._written += data
                if len(self._written) >= PART_BYTES:
                    self._written, self._part = b"", self._part + 1
            with self._noting:
                del self._pending[:count]

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Log how the block ended: the traceback of an error goes to the file and on."""
        with self._following():
            try:
                yield
            except Exception:
                self.add(
                    f"rank {self.rank} failed in task {self.place.task}\n{traceback.format_exc()}"
                )
                self.publish()
                raise
            finally:
                self.place.listener = None  # what comes after it in this thread is not its own
            self.add("the worker has ended")
            self.publish()

    def _append(self, data: bytes) -> None:
        with storage_errors(self.folder.file_uri(self.name), "write", self.folder.setting):
            os.makedirs(self.folder.path, exist_ok=True)
            with open(f"{self.folder.path}/{self.name}", "ab", buffering=0) as file:
                start = os.fstat(file.fileno()).st_size
                try:
                    file.write(data)
                except OSError:
                    file.truncate(start)  # the whole of it comes again
                    raise

    @contextmanager
    def _following(self) -> Iterator[None]:
        """Inside the block a thread says now and then how often the worker moved, if it did."""
        moves, said = self.place.moves, time.monotonic()

        def follow() -> None:
            nonlocal moves, said
            now = time.monotonic()
            if self.place.moves != moves and now - said >= SECONDS_BETWEEN_PLACES:
                self.add(f"moved {self.place.moves - moves} times in {now - said:.0f} s")
                moves, said = self.place.moves, now
            self.publish()

        pause = SECONDS_BETWEEN_PLACES if self._appends else SECONDS_BETWEEN_WRITES
        with repeating(follow, pause, name="promptide-rank-log", passing=(StorageError,)):
            yield


@dataclass
class PhaseClock:
    """Seconds spent by phase since the last `take`."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's time to a phase, in which the worker is meanwhile."""
        start = time.perf_counter()
        try:
            with here().doing(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds by phase; starts anew."""
        taken, self.seconds = self.seconds, {}
        return taken
