"""What is repeated beside a block goes on over failures and ends with the block."""

import threading

from system.errors import StorageError
from system.repeating import repeating


def test_a_look_is_repeated_until_the_block_ends_and_over_failures() -> None:
    calls, enough = [0], threading.Event()

    def look() -> None:
        calls[0] += 1
        if calls[0] == 1:
            raise StorageError("away")
        if calls[0] == 3:
            enough.set()

    with repeating(look, 0.01, name="promptide-look", passing=(StorageError,)):
        assert enough.wait(10)
    assert not [t for t in threading.enumerate() if t.name == "promptide-look"]


def test_a_call_at_once_does_not_wait_for_the_first_pause() -> None:
    called = threading.Event()
    with repeating(called.set, 3600, name="promptide-look", passing=(), at_once=True):
        assert called.wait(10)
