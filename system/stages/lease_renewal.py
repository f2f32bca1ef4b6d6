"""Keeps a worker group's lease alive while its leader is busy."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_RENEWALS = 20.0


@contextmanager
def renewing(
    renew: Callable[[], None], seconds: float = SECONDS_BETWEEN_RENEWALS
) -> Iterator[None]:
    """Call `renew` every so often in a thread of its own, until the block ends."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(seconds):
            try:
                renew()
            except Exception:
                # Whatever it is, lost storage or a newer group, the block's own calls meet it too
                # and can say in which task.
                continue

    thread = threading.Thread(target=keep, name="promptide-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
