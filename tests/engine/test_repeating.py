"""A lease is kept while its leader is busy, whatever a single renewal meets."""

import threading

from system.engine.repeating import renewing
from system.errors import StorageError


def test_it_renews_until_the_end_and_over_failures() -> None:
    calls, enough = [0], threading.Event()

    def renew() -> None:
        calls[0] += 1
        if calls[0] == 1:
            raise StorageError("away")
        if calls[0] == 3:
            enough.set()

    with renewing(renew, seconds=0.01):
        assert enough.wait(10)
    assert not [t for t in threading.enumerate() if t.name == "promptide-lease"]
