"""Tasks that arrive while a stream goes on: kept, bounded, in order, and the same for everyone."""

from pathlib import Path

import pytest

from system.errors import ConfigError, StorageError
from system.stream.task_source import (
    Lease,
    NotLeasedError,
    StreamClosedError,
    StreamFullError,
)
from tests.actors.streams import learn_next, make_live_stream, make_stream, snapshot


def test_tasks_arrive_and_the_stream_ends_once_it_is_closed(tmp_path: Path) -> None:
    stream = make_live_stream(tmp_path)
    generation = stream.register("run")
    assert not stream.ready("run", generation)
    with pytest.raises(NotLeasedError, match="ask until ready"):
        stream.lease("run", generation)
    assert stream.append(["food", "animals"]) == ["food", "animals"]
    assert stream.ready("run", generation)
    assert [learn_next(stream, "run", generation) for _ in range(2)] == ["food", "animals"]
    assert not stream.ready("run", generation)
    stream.append(["travel"])
    assert stream.lease("run", generation) == Lease("travel", 2, generation, committed=2)
    stream.close()
    stream.close()
    stream.commit("run", generation, "travel", {})
    assert stream.ready("run", generation)
    assert stream.lease("run", generation) is None
    assert snapshot(make_live_stream(tmp_path)) == snapshot(stream)


def test_what_was_appended_outlives_the_process_and_a_repetition_adds_nothing(
    tmp_path: Path,
) -> None:
    make_live_stream(tmp_path, "animals").append(["food"], call_id="call-1")
    again = make_live_stream(tmp_path, "animals")
    assert again.append(["food"], call_id="call-1") == ["animals", "food"]
    again.append(["travel"])
    assert make_live_stream(tmp_path, "animals").status()["tasks"] == ["animals", "food", "travel"]


@pytest.mark.parametrize(
    ("tasks", "error", "named"),
    [
        (["zoo"], ConfigError, r"\['zoo'\] are not in the benchmark; it has \['animals', 'food'"),
        (["food", "food"], ConfigError, "none twice"),
        (["animals"], ConfigError, "in the stream already"),
        ([], ConfigError, "at least one"),
        (["food", "travel"], StreamFullError, r"1 tasks are pending, and stream\.max_pending=2"),
    ],
)
def test_an_append_that_cannot_be_changes_nothing(
    tmp_path: Path, tasks: list[str], error: type[Exception], named: str
) -> None:
    stream = make_live_stream(tmp_path, "animals", max_pending=2)
    with pytest.raises(error, match=named):
        stream.append(tasks)
    assert stream.append(["food"]) == ["animals", "food"]


def test_more_at_once_than_ever_fit_is_said_at_once(tmp_path: Path) -> None:
    """To wait for room would be to wait for ever."""
    with pytest.raises(ConfigError, match="append them in parts"):
        make_live_stream(tmp_path, max_pending=1).append(["food", "travel"])


def test_room_is_made_by_the_fastest_consumer_alone(tmp_path: Path) -> None:
    """One that is dead or slow holds back neither the others nor who feeds them."""
    stream = make_live_stream(tmp_path, "animals", max_pending=1)
    fast, slow = stream.register("fast"), stream.register("slow")
    stream.lease("slow", slow)
    stream.append(["food"])
    with pytest.raises(StreamFullError):
        stream.append(["travel"])
    assert [learn_next(stream, "fast", fast), learn_next(stream, "fast", fast)] == [
        "animals",
        "food",
    ]
    assert stream.append(["travel"]) == ["travel"]
    stream.close()
    order = [learn_next(stream, "slow", slow) for _ in range(3)]
    assert order == ["animals", "food", "travel"]
    assert stream.lease("slow", slow) is None
    assert stream.ready("fast", fast)


def test_pending_tasks_take_another_order_but_not_those_handed_out(tmp_path: Path) -> None:
    stream = make_live_stream(tmp_path, "animals", "food", "travel")
    generation = stream.register("run")
    stream.lease("run", generation)
    with pytest.raises(ConfigError, match="meanwhile"):
        stream.reorder(["travel", "food", "animals"])
    stream.reorder(["travel", "food"])
    assert make_live_stream(tmp_path, "animals", "food", "travel").status()["tasks"] == [
        "animals",
        "travel",
        "food",
    ]
    stream.register("run")  # its group died: the place of what it held stays settled
    with pytest.raises(ConfigError, match="meanwhile"):
        stream.reorder(["food", "travel", "animals"])


def test_a_stream_that_was_given_whole_takes_no_more(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with pytest.raises(StreamClosedError, match=r"stream\.live=false"):
        stream.append(["food"])
    stream.close()  # it is closed already
    with pytest.raises(StorageError, match=r"journal has stream\.live=false"):
        make_live_stream(tmp_path, "animals", "food", "travel")


def test_a_closed_stream_takes_no_more(tmp_path: Path) -> None:
    make_live_stream(tmp_path).close()
    with pytest.raises(StreamClosedError, match="was closed"):
        make_live_stream(tmp_path).append(["food"])


def test_status_tells_since_when(tmp_path: Path) -> None:
    stream = make_live_stream(tmp_path, "animals")
    generation = stream.register("run")
    lease = stream.lease("run", generation)
    assert lease is not None
    stream.open_split("run", generation, 0, "animals", "train")
    stream.open_split("run", generation, 1, "animals", "train")
    stream.append(["food"])
    stream.trained("run", generation, "animals")
    for look in (stream, make_live_stream(tmp_path, "animals")):
        status = look.status()
        run = status["consumers"]["run"]
        assert (status["pending"], status["open"], run["ranks"]) == (["food"], True, 2)
        trained, pending = run["tasks"]
        assert (trained["state"], pending["state"]) == ("trained", "pending")
        assert trained["since"] > pending["since"]
