"""What is tried again, how often, and what ends a run at once."""

import pytest

from actors.failures import Retries, StreamFailedError, cause
from system.engine.epochs import DivergedError
from system.errors import (
    BrokenStorageError,
    DataError,
    PromptideError,
    QuarantinedError,
    StorageError,
)

DIED = StreamFailedError("rank 0 failed")


def failing(retries: Retries, error: PromptideError, finished: list[int]) -> int:
    """How many of the failures, each with so many tasks finished, are tried again."""
    for tried, tasks in enumerate(finished):
        try:
            retries.wait_after(error, tasks)
        except type(error):
            return tried
    return len(finished)


@pytest.mark.parametrize("error", [DIED, StorageError("the disk is full")])
def test_what_may_pass_is_tried_again_with_growing_waits(error: PromptideError) -> None:
    waits: list[float] = []
    assert failing(Retries(8, waits.append), error, [2] * 20) == 8
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    "error",
    [DivergedError("nan"), DataError("broken image"), BrokenStorageError("record 3, byte 0")],
)
def test_what_comes_out_the_same_ends_the_run_at_once(error: PromptideError) -> None:
    """Else a diverged loss costs the start of a worker group, three times over."""
    waits: list[float] = []
    assert failing(Retries(3, waits.append), error, [0]) == 0
    assert waits == []


def test_rows_put_aside_start_a_group_anew_without_counting() -> None:
    """It cannot go on for ever: each time there are fewer rows that could be put aside."""
    waits: list[float] = []
    retries = Retries(0, sleep=waits.append)
    for _ in range(3):
        retries.wait_after(QuarantinedError("two images were put aside"), finished=0)
    assert waits == []


def test_a_finished_task_starts_the_count_anew() -> None:
    """A stream of days meets more failures than any one task may."""
    waits: list[float] = []
    assert failing(Retries(2, waits.append), DIED, [0, 0, 1, 1, 2, 2, 2]) == 6
    assert waits == [1, 2] * 3


def test_without_a_limit_it_never_gives_up() -> None:
    assert failing(Retries(-1, lambda _: None), DIED, [0] * 50) == 50
    assert failing(Retries(0, lambda _: None), DIED, [0]) == 0


def test_the_users_error_is_found_inside_what_wraps_it() -> None:
    class GroupError(Exception):
        def __init__(self, failures: dict[int, Exception]) -> None:
            self.worker_failures = failures

    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = DataError("image 7")
    found = cause(GroupError({1: RuntimeError("lost connection"), 0: wrapped}), "logs")
    assert found is wrapped.__cause__
    other = cause(GroupError({1: RuntimeError("second"), 0: RuntimeError("first")}), "the-logs")
    assert isinstance(other, StreamFailedError)
    assert "rank 0" in str(other)
    assert "first" in str(other)
    assert "the-logs" in str(other)
