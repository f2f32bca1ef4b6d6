"""Why a worker group ended, and whether and when to try again."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ray.train
from ray.exceptions import RayActorError

from system.errors import BrokenStorageError, PromptideError, QuarantinedError, StorageError

#: Ends of a worker group that `cause` understands: of a worker, of the controller, of its actor.
GROUP_FAILURES = (ray.train.TrainingFailedError, RayActorError)
LONGEST_WAIT = 60.0


class StreamFailedError(PromptideError):
    """A worker failed in a way that no config mends; the message holds its traceback."""


def cause(error: Exception, logs: str) -> PromptideError:
    """The user's error inside what Ray Train wraps around it, or the first rank's traceback."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    pending: list[BaseException | None] = list(failures.values())
    seen: set[int] = set()
    while pending:
        inner = pending.pop()
        if inner is None or id(inner) in seen:
            continue
        if isinstance(inner, PromptideError):
            return inner
        seen.add(id(inner))
        pending += [inner.__cause__, getattr(inner, "cause", None)]
    rank, first = min(failures.items(), default=(0, error))
    return StreamFailedError(
        f"rank {rank} failed; all ranks' logs are in {logs}. What it ended with:\n{first}"
    )


@dataclass
class Retries:
    """How often a group may fail with no task finished in between; each wait is twice the last.

    Only what may be different next time is tried again: a process that died, storage that did not
    answer or was full. A loss that diverged, or a file that is broken, is so again. `limit` -1
    stands for no limit.
    """

    limit: int
    sleep: Callable[[float], None] = time.sleep
    failures: int = field(default=0, init=False)
    finished: int = field(default=0, init=False)

    def wait_after(self, error: PromptideError, finished: int) -> None:
        """Wait before the next try, `finished` tasks being done so far, or raise the error."""
        if isinstance(error, QuarantinedError):
            return  # those rows are not read again
        again = isinstance(error, StreamFailedError | StorageError)
        if not again or isinstance(error, BrokenStorageError):
            raise error
        if finished > self.finished:
            self.finished, self.failures = finished, 0
        if self.failures == self.limit:
            raise error
        self.sleep(min(2.0**self.failures, LONGEST_WAIT))
        self.failures += 1
