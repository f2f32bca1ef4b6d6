"""One log file a rank in the run directory, with the traceback of what ended it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from system.storage.files import Folder


class RankLog:
    """The lines of one worker process; the file is written whole at each `publish`.

    An object store has no append, and a worker writes a few lines a task.
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
        self.add("the stream has ended")
        self.publish()
