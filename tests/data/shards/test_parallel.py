"""Runs hang, leak threads or lose their order if these fail."""

import threading
import time
from collections.abc import Generator

import pytest

from system.data.shards.parallel import bounded_map, prefetch
from system.errors import ConfigError, DataError


def own_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("promptide-")]


def endless() -> Generator[int, None, None]:
    number = 0
    while True:
        yield number
        number += 1


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(bounded_map(work, range(40), threads=threads)) == [i * i for i in range(40)]
    assert own_threads() == []


def test_few_items_are_under_way_however_many_there_are() -> None:
    pulled = []

    def items() -> Generator[int, None, None]:
        for item in range(1000):
            pulled.append(item)
            yield item

    results = bounded_map(lambda item: item, items(), threads=2)
    next(results)
    assert len(pulled) == 8
    results.close()


def test_closing_early_ends_all_threads() -> None:
    results = prefetch(bounded_map(lambda item: item, endless(), threads=2), depth=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert own_threads() != []
    results.close()
    assert own_threads() == []


def test_error_comes_at_its_items_turn_and_ends_all_threads() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise DataError("three")
        return item

    results = prefetch(bounded_map(work, range(50), threads=2), depth=1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="three"):
        next(results)
    assert own_threads() == []


def test_no_threads_is_refused() -> None:
    with pytest.raises(ConfigError, match="threads: 0"):
        list(bounded_map(lambda item: item, [1], threads=0))
