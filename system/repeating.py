"""Something called every so often beside a block of code."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def repeating(
    call: Callable[[], None],
    seconds: float,
    *,
    name: str,
    passing: tuple[type[Exception], ...],
    at_once: bool = False,
) -> Iterator[None]:
    """Call something every so often in a thread called `name`, until the block ends.

    The first time is after `seconds`, or `at_once`. Errors of the types in `passing` are passed
    over: the block's own calls meet them too, and can say in what.
    """
    ended = threading.Event()

    def keep() -> None:
        pause = 0.0 if at_once else seconds
        while not ended.wait(pause):
            pause = seconds
            with suppress(*passing):
                call()

    thread = threading.Thread(target=keep, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
