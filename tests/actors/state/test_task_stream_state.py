from pathlib import Path

import pytest

from actors.journal.journal import Journal
from actors.state.stream_memory import ACCESS_LOG_SCHEMA
from actors.state.task_stream_state import TaskStream
from system.data.shards.faults import Fault
from system.errors import ConfigError, DataError, ReplayRefusedError, StorageError
from system.results.replay_audit import replayed_rows
from system.storage.files import Folder
from system.stream.task_source import (
    Lease,
    NotLeasedError,
    StaleGenerationError,
    StreamHaltedError,
    TaskSource,
)
from tests.actors.streams import ROWS, TASKS, make_manifest, make_stream, snapshot


@pytest.fixture
def stream(tmp_path: Path) -> TaskStream:
    return make_stream(tmp_path)


def run_all(source: TaskSource, consumer: str) -> list[str]:
    """What a worker loop does: the order in which it got the tasks."""
    generation, order = source.register(consumer), []
    while (lease := source.lease(consumer, generation)) is not None:
        source.open_split(consumer, generation, 0, lease.task, "train")
        for task in source.status()["tasks"]:
            source.open_split(consumer, generation, 0, task, "test")
        source.commit(consumer, generation, lease.task, {"task": lease.task})
        order.append(lease.task)
    return order


def test_tasks_come_in_the_manifests_order_and_end_with_none(stream: TaskStream) -> None:
    assert run_all(stream, "run") == list(TASKS)
    assert stream.committed("run") == [{"task": task} for task in TASKS]
    assert replayed_rows(stream.access_log(), TASKS) == 0


def test_a_given_order_replaces_the_manifests(tmp_path: Path) -> None:
    stream = TaskStream(str(tmp_path / "journal"), make_manifest(tmp_path), ["travel", "animals"])
    assert run_all(stream, "run") == ["travel", "animals"]


@pytest.mark.parametrize("tasks", [["animals", "zoo"], ["food", "food"], []])
def test_an_order_that_cannot_be_served_names_the_field(tmp_path: Path, tasks: list[str]) -> None:
    with pytest.raises(ConfigError, match="tasks: "):
        TaskStream(str(tmp_path / "journal"), make_manifest(tmp_path), tasks)


def test_the_same_task_is_leased_until_it_is_committed(stream: TaskStream) -> None:
    """Each rank may ask for itself: all of a group train the same task."""
    generation = stream.register("run")
    expected = Lease("animals", 0, generation, committed=0)
    assert [stream.lease("run", generation) for _ in range(3)] == [expected] * 3
    stream.commit("run", generation, "animals", {})
    assert stream.lease("run", generation) == Lease("food", 1, generation, committed=1)


def test_a_stream_ends_for_now_after_as_many_tasks_as_it_is_told(tmp_path: Path) -> None:
    """A trial that waits for the others' figures; nothing of the limit stays in the journal."""
    place, manifest = str(tmp_path / "journal"), make_manifest(tmp_path)
    part = TaskStream(place, manifest, until=2)
    assert run_all(part, "run") == list(TASKS[:2])
    assert part.ready("run", 1)
    assert TaskStream(place, manifest, until=2).lease("run", 1) is None
    records = {file.name for file in (tmp_path / "journal").iterdir()}
    whole = TaskStream(place, manifest)
    assert {file.name for file in (tmp_path / "journal").iterdir()} == records
    assert whole.status()["tasks"] == list(TASKS)
    assert run_all(whole, "run") == list(TASKS[2:])
    assert replayed_rows(whole.access_log(), TASKS) == 0


def test_a_halted_consumer_goes_on_when_the_stream_is_started_again(
    tmp_path: Path,
) -> None:
    """A sweep that stops a trial must neither wait for its task nor lose those before."""
    stream = make_stream(tmp_path)
    generation = stream.register("run")
    stream.lease("run", generation)
    stream.commit("run", generation, "animals", {})
    stream.lease("run", generation)
    stream.halt("run")
    with pytest.raises(StreamHaltedError):
        stream.post_progress("run", {})
    assert stream.lease("run", generation) is None
    again = make_stream(tmp_path)
    generation = again.register("run")
    assert again.lease("run", generation) == Lease("food", 1, generation, committed=1)


def test_a_repeated_commit_keeps_the_first_payload(stream: TaskStream) -> None:
    """A call that Ray repeats after the actor's death must not commit twice or overwrite."""
    generation = stream.register("run")
    stream.lease("run", generation)
    stream.commit("run", generation, "animals", {"row": [1.5, 2]})
    stream.commit("run", generation, "animals", {"row": [0, 0]})
    assert stream.committed("run") == [{"row": [1.5, 2]}]


@pytest.mark.parametrize("task", ["animals", "food", "zoo"])
def test_only_the_leased_task_can_be_committed(stream: TaskStream, task: str) -> None:
    generation = stream.register("run")
    if task != "animals":
        stream.lease("run", generation)
    with pytest.raises(NotLeasedError, match=f"'{task}' cannot be committed"):
        stream.commit("run", generation, task, {})
    assert stream.committed("run") == []


@pytest.mark.parametrize("payload", [{"row": object()}, {"row": {1, 2}}])
def test_a_payload_that_is_not_json_is_refused_and_changes_nothing(
    stream: TaskStream, payload: dict[str, object]
) -> None:
    generation = stream.register("run")
    stream.lease("run", generation)
    with pytest.raises(TypeError, match="not JSON"):
        stream.commit("run", generation, "animals", payload)
    stream.commit("run", generation, "animals", {"row": 1})
    assert stream.committed("run") == [{"row": 1}]


def test_undefined_figures_and_tuples_survive_a_restart_alike(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    generation = stream.register("run")
    stream.lease("run", generation)
    stream.commit(
        "run", generation, "animals", {"row": (0.1 + 0.2, float("nan")), "k": {3: 1, "3": 2}}
    )
    assert repr(stream.committed("run")) == repr(make_stream(tmp_path).committed("run"))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("task", ["animals", "travel"])
def test_splits_of_past_and_future_tasks_are_refused(
    stream: TaskStream, task: str, split: str
) -> None:
    """The promise of the stream: no row of another task can be trained on or tuned on."""
    generation = stream.register("run")
    stream.lease("run", generation)
    stream.commit("run", generation, "animals", {})
    stream.lease("run", generation)
    with pytest.raises(ReplayRefusedError, match=f"'{split}' of task '{task}'.*'food'"):
        stream.open_split("run", generation, 0, task, split)
    assert stream.access_log().num_rows == 0
    assert stream.open_split("run", generation, 0, "food", split).rows == ROWS[split]


def test_a_trained_task_is_shut_while_it_is_evaluated(tmp_path: Path) -> None:
    """Evaluation reads test splits only; a group that starts anew needs the features again."""
    stream = make_stream(tmp_path)
    generation = stream.register("run")
    stream.lease("run", generation)
    with pytest.raises(NotLeasedError, match="'food' cannot be marked as trained"):
        stream.trained("run", generation, "food")
    stream.open_split("run", generation, 0, "animals", "train", call_id="call-1")
    stream.trained("run", generation, "animals")
    stream.trained("run", generation, "animals")
    for restart in (False, True):
        stream = make_stream(tmp_path) if restart else stream
        assert stream.status()["consumers"]["run"]["tasks"][0]["state"] == "trained"
        with pytest.raises(ReplayRefusedError, match=r"'animals' \(trained\)"):
            stream.open_split("run", generation, 0, "animals", "train")
        assert stream.open_split("run", generation, 0, "animals", "test").rows == ROWS["test"]
        # What Ray repeats, because the answer was lost, is answered stream.
        stream.open_split("run", generation, 0, "animals", "train", call_id="call-1")
    stream.commit("run", generation, "animals", {})
    stream.trained("run", generation, "animals")
    generation = stream.register("run")
    stream.lease("run", generation)
    assert stream.open_split("run", generation, 0, "food", "train").rows == ROWS["train"]


def test_a_new_worker_group_may_read_a_trained_task_again(stream: TaskStream) -> None:
    """Its predecessor died while evaluating: the router's features have to be made again."""
    old = stream.register("run")
    stream.lease("run", old)
    stream.trained("run", old, "animals")
    generation = stream.register("run")
    stream.lease("run", generation)
    assert stream.open_split("run", generation, 0, "animals", "train").rows == ROWS["train"]


def test_nothing_but_test_splits_is_open_without_a_lease(stream: TaskStream) -> None:
    generation = stream.register("run")
    with pytest.raises(ReplayRefusedError, match="current task is none"):
        stream.open_split("run", generation, 0, "animals", "train")
    for task in TASKS:  # zero-shot is measured before the first task
        assert stream.open_split("run", generation, 0, task, "test").rows == ROWS["test"]
    assert stream.access_log()["current_task"].to_pylist() == [None] * 3


@pytest.mark.parametrize(("task", "split"), [("zoo", "test"), ("animals", "testC")])
def test_an_unknown_task_or_split_is_named(stream: TaskStream, task: str, split: str) -> None:
    generation = stream.register("run")
    stream.lease("run", generation)
    with pytest.raises(DataError, match=r"zoo|testC"):
        stream.open_split("run", generation, 0, task, split)


def test_the_access_log_records_who_read_what(stream: TaskStream) -> None:
    generation = stream.register("run")
    stream.lease("run", generation)
    stream.open_split("run", generation, 1, "animals", "train", shards_rows=20)
    stream.open_split("run", generation, 0, "travel", "test")
    log = stream.access_log()
    assert log.schema == ACCESS_LOG_SCHEMA
    rows = log.drop_columns(["opened_at"]).to_pylist()
    common = {"generation": generation, "consumer": "run", "current_task": "animals"}
    assert rows == [
        {"task": "animals", "split": "train", "rows": 20, "rank": 1, **common},
        {"task": "travel", "split": "test", "rows": ROWS["test"], "rank": 0, **common},
    ]
    first, second = log["opened_at"].to_pylist()
    assert first <= second


def test_a_repeated_open_is_recorded_once(tmp_path: Path) -> None:
    """The repetition may reach a restarted actor, which knows of the open from the journal only."""
    stream = make_stream(tmp_path)
    generation = stream.register("run")
    stream.lease("run", generation)
    for restarted in (False, False, True):
        source = make_stream(tmp_path) if restarted else stream
        handle = source.open_split("run", generation, 0, "animals", "train", call_id="call-1")
        assert (handle.task, handle.rows) == ("animals", ROWS["train"])
        assert source.access_log().num_rows == 1


def test_a_replaced_worker_group_is_fenced_off(stream: TaskStream) -> None:
    """A group that hangs while a new one runs must not commit, lease or read once it wakes."""
    old = stream.register("run")
    stream.lease("run", old)
    new = stream.register("run")
    assert new > old
    for generation in (old, new + 1):
        with pytest.raises(StaleGenerationError):
            stream.lease("run", generation)
        with pytest.raises(StaleGenerationError):
            stream.commit("run", generation, "animals", {})
        with pytest.raises(StaleGenerationError):
            stream.open_split("run", generation, 0, "animals", "test")
    with pytest.raises(NotLeasedError):
        stream.commit("run", new, "animals", {})
    assert stream.lease("run", new) == Lease("animals", 0, new, committed=0)


def test_consumers_have_a_cursor_each(stream: TaskStream) -> None:
    generations = {name: stream.register(name) for name in ("fast", "slow")}
    for name, generation in generations.items():
        stream.lease(name, generation)
    stream.commit("fast", generations["fast"], "animals", {"by": "fast"})
    fast, slow = (stream.lease(name, generation) for name, generation in generations.items())
    assert fast is not None
    assert slow is not None
    assert (fast.task, slow.task) == ("food", "animals")
    assert stream.committed("slow") == []


def test_status_tells_where_a_run_stands(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    generation = stream.register("run")
    stream.lease("run", generation)
    stream.commit("run", generation, "animals", {})
    stream.lease("run", generation)
    stream.post_progress("run", {"epoch": 3, "loss": 0.5})
    status = stream.status()
    assert status["journal"] == str(tmp_path / "journal")
    assert (status["benchmark"], status["tasks"]) == ("tiny", list(TASKS))
    run = status["consumers"]["run"]
    assert [task["state"] for task in run["tasks"]] == ["sealed", "leased", "pending"]
    assert (run["generation"], run["current_task"], run["committed"]) == (generation, "food", 1)
    assert run["progress"] == {"epoch": 3, "loss": 0.5}
    assert run["seconds_since_progress"] is not None
    assert run["seconds_since_progress"] >= 0


def test_a_restart_changes_nothing_but_progress(tmp_path: Path) -> None:
    """The driver may be killed between any two calls and started again."""
    stream = make_stream(tmp_path)
    generation = stream.register("run")
    stream.register("other")
    stream.lease("run", generation)
    stream.open_split("run", generation, 0, "animals", "train")
    stream.commit("run", generation, "animals", {"row": [1.0]})
    stream.lease("run", generation)
    stream.post_progress("run", {"epoch": 1})
    again = make_stream(tmp_path)
    assert snapshot(again) == snapshot(stream)
    assert again.status()["consumers"]["run"]["progress"] is None
    assert again.register("run") > generation


def test_a_second_writer_of_the_same_journal_is_stopped(tmp_path: Path) -> None:
    """Two runs started into one directory would otherwise overwrite each other's commits."""
    first, second = make_stream(tmp_path), make_stream(tmp_path)
    first.register("run")
    with pytest.raises(StorageError, match="written by another process"):
        second.register("run")
    assert first.register("run") == 2


def test_one_consumer_that_vanishes_holds_back_no_other(tmp_path: Path) -> None:
    """Its lease stays its own, however long it is away: only its next group can take it over."""
    stream = make_stream(tmp_path)
    slow, quick = stream.register("slow"), stream.register("quick")
    held = stream.lease("slow", slow)
    for _ in TASKS:
        lease = stream.lease("quick", quick)
        assert lease is not None
        stream.commit("quick", quick, lease.task, {})
    again = make_stream(tmp_path)
    status = again.status()["consumers"]
    assert (status["quick"]["committed"], status["slow"]["committed"]) == (3, 0)
    assert status["slow"]["current_task"] == "animals"
    assert again.lease("slow", slow) == held
    again.commit("slow", slow, "animals", {})


@pytest.mark.parametrize("compacted", [False, True])
def test_a_journal_from_when_leases_expired_is_read(tmp_path: Path, compacted: bool) -> None:
    """A run that was interrupted then goes on; these are the records that it left."""
    manifest = make_manifest(tmp_path)
    old = Journal(Folder.of(tmp_path / "journal"), manifest.fingerprint, TASKS)
    group = {"consumer": "run", "generation": 1}
    for kind, payload in (
        ("register", {**group, "replays": False}),
        ("lease", {**group, "task": "animals"}),
        ("expire", {**group, "task": "animals"}),
    ):
        last = old.append(kind, payload)
    if compacted:
        begun = old.header.at.isoformat()
        cursor = {
            "generation": 1,
            "leased": None,
            "trained": False,
            "replays": False,
            "commits": {},
            "expired": "animals",
            "since": {"animals": last.at.isoformat()},
            "ranks": [0],
            "aside": [],
        }
        columns: dict[str, list[object]] = {name: [] for name in ACCESS_LOG_SCHEMA.names}
        tasks = {"names": list(TASKS), "open": False, "reached": 1, "appends": []}
        old.compact(
            {
                "tasks": {**tasks, "since": dict.fromkeys(TASKS, begun)},
                "cursors": {"run": cursor},
                "newest_generation": 1,
                "opens": {"columns": columns, "ids": []},
            }
        )
    stream = make_stream(tmp_path)
    run = stream.status()["consumers"]["run"]
    assert (run["current_task"], run["tasks"][0]["state"]) == (None, "pending")
    assert run["tasks"][0]["since"] == last.at.isoformat()
    assert stream.lease("run", 1) == Lease("animals", 0, 1, committed=0)
    stream.commit("run", 1, "animals", {})
    assert make_stream(tmp_path).committed("run") == [{}]


def test_rows_are_put_aside_once_and_for_one_consumer(tmp_path: Path) -> None:
    """Two ranks may find the same image; another run's figures must not change under it."""
    stream = make_stream(tmp_path)
    run, other = stream.register("run"), stream.register("other")
    fault = Fault("train", "animals: 7.jpg", "does not decode", "undecodable image")
    with pytest.raises(NotLeasedError):
        stream.quarantine("run", run, "animals", "train", {7: fault})
    stream.lease("run", run)
    stream.lease("other", other)
    assert stream.quarantine("run", run, "animals", "train", {7: fault}) == 1
    assert stream.quarantine("run", run, "animals", "train", {7: fault}) == 0
    assert stream.open_split("other", other, 0, "animals", "train").rows == ROWS["train"]
    stream = make_stream(tmp_path)
    assert stream.quarantined("run") == [fault]
    handle = stream.open_split("run", run, 0, "animals", "train")
    assert (handle.without, handle.rows) == (frozenset({7}), ROWS["train"] - 1)
    assert stream.access_log()["rows"].to_pylist() == [ROWS["train"], ROWS["train"] - 1]
