"""Calls repeated in a thread of their own, such as what keeps a worker group's lease alive."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

SECONDS_BETWEEN_RENEWALS = 20.0


@contextmanager
def repeating(
    call: Callable[[], None], seconds: float, *, name: str, passing: tuple[type[Exception], ...]
) -> Iterator[None]:
    """Call something every so often in a thread called `name`, until the block ends.

    Errors of the types in `passing` are passed over: the block's own calls meet them too, and can
    say in what.
    """
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(seconds):
            with suppress(*passing):
                call()

    thread = threading.Thread(target=keep, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def renewing(
    renew: Callable[[], None], seconds: float = SECONDS_BETWEEN_RENEWALS
) -> AbstractContextManager[None]:
    """Renew a lease while its group's leader is busy, whatever a single renewal meets."""
    return repeating(renew, seconds, name="promptide-lease", passing=(Exception,))
