"""Bounded, ordered parallelism by threads that end when their iterator is closed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

from system.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _End:
    """Last entry of a prefetch queue: how the producer ended."""

    error: BaseException | None


def bounded_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Generator[Result, None, None]:
    """Yield function(item) in the order of the items, computed by a pool of threads.

    Items are pulled by the consumer's thread; at most four per thread are under way, so memory
    does not depend on their number. The function's error is raised at its item's turn.
    Raises: ConfigError for fewer than one thread.
    """
    if threads < 1:
        raise ConfigError(f"threads: {threads} is too few: at least 1 is needed")
    ahead = 4 * threads
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="promptide-map")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prefetch(items: Generator[Item, None, None], *, depth: int) -> Generator[Item, None, None]:
    """Run a generator in a thread of its own, at most `depth` finished items ahead.

    Its error is raised at its turn. Closing the returned generator closes `items` and ends the
    thread before it returns.
    """
    queue: Queue[Item | _End] = Queue(depth)
    stop = Event()

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                queue.put(item)
                if stop.is_set():
                    break
        # Whatever ends the producer belongs to the consumer, who would wait for ever otherwise.
        except BaseException as caught:
            error = caught
        finally:
            items.close()
        queue.put(_End(error))

    thread = Thread(target=produce, name="promptide-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = queue.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return
    finally:
        stop.set()
        # The producer may be waiting for room in the queue: make some until it has ended.
        while thread.is_alive():
            with suppress(Empty):
                queue.get_nowait()
            thread.join(0.01)
