"""Ctrl-C beside Ray, which may lose one, and Ray Train, whose own handler stays installed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: A lost one is repeated before a job that was told to stop is killed, a minute later.
SECONDS_TO_REPEAT = 15.0


@contextmanager
def own_interrupt_handler(repeat_after: float = SECONDS_TO_REPEAT) -> Iterator[None]:
    """Let Ctrl-C during `fit` be KeyboardInterrupt, and put back the handler of before after it.

    Ray Train's handler aborts its workers and exits. After `fit` there are none, and it would
    swallow every later Ctrl-C of the process. Without workers the loop runs in this process, and a
    KeyboardInterrupt that comes inside a call of Ray's, or while an object is freed, may get lost
    there: it is raised again, each `repeat_after` seconds until the block has ended.
    """
    # Only the main thread may set handlers, so none is set in another.
    main = threading.current_thread()
    if main is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    asked, ended = threading.Event(), threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    def repeat() -> None:
        asked.wait()
        while not ended.wait(repeat_after):
            signal.pthread_kill(main.ident or 0, signal.SIGINT)

    # Whoever handles it otherwise, or ignores it, as a script does in the background, goes on.
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    repeater = threading.Thread(target=repeat, name="promptide-interrupt", daemon=True)
    repeater.start()
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        ended.set()
        asked.set()
        repeater.join()
        signal.signal(signal.SIGINT, before)
