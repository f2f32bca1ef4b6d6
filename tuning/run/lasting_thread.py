"""One thread a process that does one job after the other, for as long as the process lives.

PyTorch and the C library keep memory for each thread that ever computed and do not give it back: a
process that took each trial in a thread of its own grew by the trial's working memory every time.
"""

import functools
import queue
import threading
from collections.abc import Callable


class Job:
    """Something that the thread does; `done` is set when it has ended, well or not."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.done = threading.Event()


class LastingThread:
    """Does jobs in turn. It ends with the process, in whatever it is doing."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Job] = queue.Queue()
        threading.Thread(target=self._run, name="promptide-trial", daemon=True).start()

    def start(self, work: Callable[[], None]) -> Job:
        """Do it when all earlier jobs are done; `work` raises nothing."""
        job = Job(work)
        self._jobs.put(job)
        return job

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job.work()
            finally:
                job.done.set()


@functools.cache
def lasting_thread() -> LastingThread:
    """This process's thread."""
    return LastingThread()
