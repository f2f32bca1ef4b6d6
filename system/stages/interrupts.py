"""Ctrl-C beside Ray Train, which installs a handler of its own and leaves it there."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_interrupt_handler() -> Iterator[None]:
    """Put back, after the block, the handler of SIGINT that was there before it.

    Ray Train's handler aborts its workers. After `fit` there are none, and it would swallow every
    later Ctrl-C of the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, so none is set here
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
