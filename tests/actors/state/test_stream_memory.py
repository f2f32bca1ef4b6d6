"""A stream without an end: its journal stays small, and nothing of what it holds is lost."""

from pathlib import Path

import pytest

from actors.state.task_stream_state import TaskStream
from system.data.shards.faults import Fault
from system.errors import ReplayRefusedError
from system.stream.task_source import StaleGenerationError
from tests.actors.streams import TASKS, make_live_stream, make_manifest, snapshot

FAULT = Fault("train", "image-3", "does not decode", "broken image")


def stream(root: Path, compact_after: int) -> TaskStream:
    return TaskStream(str(root / "journal"), make_manifest(root), compact_after=compact_after)


def live_through(stream: TaskStream) -> None:
    """All kinds of records that a run writes, and a second run that stopped in its second task."""
    for consumer, tasks in (("run", TASKS), ("other", TASKS[:1])):
        stream.register(consumer, replays=consumer == "other")
        generation = stream.register(consumer)
        for task in tasks:
            stream.lease(consumer, generation)
            for rank in range(2):
                stream.open_split(
                    consumer, generation, rank, task, "train", 20, call_id=f"{task}-{rank}"
                )
            if task == "food":
                stream.quarantine(consumer, generation, task, "train", {3: FAULT})
            for seen in TASKS:
                stream.open_split(consumer, generation, 0, seen, "test")
            stream.trained(consumer, generation, task)
            stream.commit(consumer, generation, task, {"task": task, "recall": 0.1})
    stream.lease("other", stream.status()["consumers"]["other"]["generation"])


def without_times(stream: TaskStream) -> object:
    """What two streams that lived through the same have in common."""
    kept = snapshot(stream)
    for entry in kept["opens"]:
        del entry["opened_at"]
    for _, _, tasks in kept["consumers"].values():
        for task in tasks:
            del task["since"]
    return kept, stream.quarantined("run")


@pytest.mark.parametrize("compact_after", [1, 2, 5])
def test_a_compacted_stream_is_the_one_that_never_was(tmp_path: Path, compact_after: int) -> None:
    """Its consumers, their commits, what they put aside, and every row of the access log."""
    whole = stream(tmp_path / "whole", 1000)
    live_through(whole)
    live_through(stream(tmp_path / "compacted", compact_after))
    again = stream(tmp_path / "compacted", compact_after)
    assert without_times(again) == without_times(whole)
    assert again.quarantined("run") == [FAULT]
    generation = again.status()["consumers"]["other"]["generation"]
    handle = again.open_split("other", generation, 0, "food", "train", call_id="after")
    assert handle.without == frozenset()
    rows = again.access_log().num_rows
    again.compact()
    again.open_split("other", generation, 0, "food", "train", call_id="after")  # Ray repeats a call
    assert again.access_log().num_rows == rows
    with pytest.raises(ReplayRefusedError):
        again.open_split("other", generation, 0, "animals", "train")
    with pytest.raises(StaleGenerationError):
        again.lease("other", generation - 1)
    assert again.register("third") == generation + 1


def test_the_number_of_files_does_not_grow_with_the_past(tmp_path: Path) -> None:
    """But by a tenth of the access log, so that it is not written again at every turn."""
    tasks = tuple(f"task-{number:02d}" for number in range(12))
    endless = TaskStream(str(tmp_path / "journal"), make_manifest(tmp_path, tasks), compact_after=8)
    generation, most = endless.register("run"), 0
    for round_ in range(12):
        lease = endless.lease("run", generation)
        assert lease is not None
        for seen in tasks[: round_ + 1]:
            endless.open_split("run", generation, 0, seen, "test")
        endless.commit("run", generation, lease.task, {})
        most = max(most, len(list((tmp_path / "journal").glob("*.json"))))
    opens = endless.access_log().num_rows
    assert opens == 78
    # A snapshot and its tail; and what it covers, which goes with the next record.
    assert most <= 2 * (8 + 1)


def test_appends_are_known_after_a_compaction(tmp_path: Path) -> None:
    live = make_live_stream(tmp_path, "animals")
    live.append(["food"], ["food", "animals"], call_id="call-1")
    live.compact()
    live.close()
    again = make_live_stream(tmp_path, "animals")
    assert again.append(["food"], call_id="call-1") == ["food", "animals"]
    status = again.status()
    assert (status["given"], status["open"]) == (["animals", "food"], False)
