from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from system.errors import DataError
from system.results.replay_audit import replayed_opens, replayed_rows

TASKS = ("animals", "food", "travel")
START = datetime(2025, 1, 1, tzinfo=timezone.utc)


def make_log(*opens: tuple[str, str, str | None], consumer: str = "run") -> pa.Table:
    """An access log of (task, split, current task), each of ten rows."""
    return pa.table(
        {
            "task": pa.array([task for task, _, _ in opens], pa.string()),
            "split": pa.array([split for _, split, _ in opens], pa.string()),
            "rows": pa.array([10] * len(opens), pa.int64()),
            "opened_at": [START + timedelta(seconds=second) for second in range(len(opens))],
            "consumer": pa.array([consumer] * len(opens), pa.string()),
            "current_task": pa.array([current for _, _, current in opens], pa.string()),
        }
    )


HONEST = (
    ("animals", "test", None),
    ("animals", "train", "animals"),
    ("animals", "train", "animals"),  # a second rank, or again after a restart
    ("animals", "test", "animals"),
    ("food", "train", "food"),
    ("animals", "test", "food"),
    ("travel", "test", "food"),
)


def test_an_honest_log_has_no_replay() -> None:
    assert replayed_rows(make_log(*HONEST), TASKS) == 0
    assert replayed_rows(make_log(), TASKS) == 0


@pytest.mark.parametrize(
    ("opened", "current"),
    [
        ("animals", "food"),  # while a later task is current
        ("animals", "animals"),  # the log claims that the stream went back
        ("animals", None),  # after a lease ended
        ("food", None),  # the last task, after its commit
    ],
)
def test_a_forged_log_with_replay_is_found(opened: str, current: str | None) -> None:
    """The audit must not depend on the stream having refused: here it let the read through."""
    log = make_log(*HONEST, (opened, "train", current))
    assert replayed_rows(log, TASKS) == 10
    assert replayed_opens(log, TASKS).to_pylist() == log.slice(len(HONEST)).to_pylist()


def test_consumers_do_not_accuse_each_other() -> None:
    """Trials of a sweep share a stream: one at the first task is no replay of a faster one."""
    fast = make_log(("travel", "train", "travel"), consumer="fast")
    slow = make_log(("animals", "train", "animals"), consumer="slow")
    assert replayed_rows(pa.concat_tables([fast, slow]), TASKS) == 0


def test_the_order_decides_what_is_past() -> None:
    log = make_log(("travel", "train", "travel"), ("animals", "train", "animals"))
    assert replayed_rows(log, ("travel", "animals")) == 0
    assert replayed_rows(log, TASKS) == 10


def test_a_log_of_another_stream_is_refused() -> None:
    with pytest.raises(DataError, match="'zoo'"):
        replayed_rows(make_log(("zoo", "test", None)), TASKS)
    with pytest.raises(DataError, match="consumer"):
        replayed_rows(make_log(*HONEST).drop_columns(["consumer"]), TASKS)
