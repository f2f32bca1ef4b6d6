"""Ctrl-C beside Ray Train, whose own handler ends the process and stays installed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_interrupt_handler() -> Iterator[None]:
    """Let Ctrl-C during `fit` be KeyboardInterrupt, and put back the handler of before after it.

    Ray Train's handler aborts its workers and exits. After `fit` there are none, and it would
    swallow every later Ctrl-C of the process.
    """
    # Only the main thread may set handlers, so none is set in another.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
