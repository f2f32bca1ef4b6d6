"""Streams as actors of a real Ray cluster: one for a run, or one for the runs of a sweep."""

import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import ray

from actors.handle import SharedStreams, TaskStreamHandle, start_task_stream
from actors.settings import StreamSettings
from system.config.schema import StreamConfig
from system.errors import ConfigError, DataError, ReplayRefusedError, StorageError
from system.results.replay_audit import replayed_rows
from system.stream.task_source import NotLeasedError, StaleGenerationError, TaskSource
from tests.actors.streams import ROWS, TASKS, kill_process, make_manifest, process_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]


def start(root: Path, name: str, **changes: Any) -> TaskStreamHandle:
    make_manifest(root).save(str(root))
    settings = {"journal_uri": str(root / "journal"), "manifest_root": str(root)} | changes
    return start_task_stream(name, None, StreamSettings(**settings))


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[TaskStreamHandle]:
    handle = start(tmp_path, f"stream-{uuid4().hex}")
    yield handle
    handle.stop()


def test_a_killed_actor_comes_back_as_it_was(handle: TaskStreamHandle) -> None:
    """Else the death of one small process loses the work of days, or its audit."""
    source: TaskSource = handle
    generation = source.register("run")
    source.lease("run", generation)
    source.open_split("run", generation, 0, "animals", "train", shards_rows=20)
    source.commit("run", generation, "animals", {"row": [0.1, 2]})
    lease = source.lease("run", generation)
    log, process = source.access_log(), process_of(handle)

    kill_process(handle)
    assert source.lease("run", generation) == lease
    assert process_of(handle) != process
    assert source.committed("run") == [{"row": [0.1, 2]}]
    assert source.access_log().equals(log)
    kill_process(handle)
    source.commit("run", generation, "food", {})
    kill_process(handle)
    source.commit("run", generation, "food", {"late": True})
    assert source.committed("run")[1:] == [{}]
    assert source.open_split("run", generation, 1, "animals", "test").rows == ROWS["test"]


def test_a_call_cut_off_by_the_actors_death_is_recorded_once(handle: TaskStreamHandle) -> None:
    """Ray repeats calls in flight: the log must not show more reads than there were."""
    generation = handle.register("run")
    handle.lease("run", generation)
    process = process_of(handle)
    calls: list[Any] = [
        handle.actor.call.remote(
            handle.settings,
            "open_split",
            *("run", generation, 0, "animals", "train"),
            call_id=f"call-{number}",
        )
        for number in range(200)
    ]
    ray.wait(calls, num_returns=20)
    os.kill(process, signal.SIGKILL)
    assert len(ray.get(calls)) == 200
    assert handle.access_log().num_rows == 200
    assert process_of(handle) != process


def test_refusals_arrive_by_their_own_types(handle: TaskStreamHandle) -> None:
    """A loop, and the command line, tell them apart by type; Ray wraps them on the way."""
    old, generation = handle.register("run"), handle.register("run")
    with pytest.raises(ReplayRefusedError, match="'train' of task 'food'") as refused:
        handle.open_split("run", generation, 0, "food", "train")
    assert type(refused.value) is ReplayRefusedError
    with pytest.raises(StaleGenerationError):
        handle.lease("run", old)
    with pytest.raises(NotLeasedError):
        handle.commit("run", generation, "animals", {})
    with pytest.raises(DataError, match="zoo"):
        handle.open_split("run", generation, 0, "zoo", "test")


def test_a_named_stream_is_found_again(handle: TaskStreamHandle, tmp_path: Path) -> None:
    """A second driver call, or another trial, joins the running stream and starts no other."""
    name = f"stream-{uuid4().hex}"
    first = start(tmp_path / "named", name)
    generation = first.register("run")
    first.lease("run", generation)
    second = start(tmp_path / "named", name)
    second.commit("run", generation, "animals", {"from": "second"})
    assert first.committed("run") == [{"from": "second"}]
    second.post_progress("run", {"epoch": 2})
    assert first.status()["consumers"]["run"]["progress"] == {"epoch": 2}
    with pytest.raises(ConfigError, match=r"elsewhere.*serves another journal"):
        start(tmp_path / "named", name, journal_uri=str(tmp_path / "elsewhere"))
    first.stop()
    # A stopped stream goes on from its journal, as a driver started anew does.
    third = start(tmp_path / "named", f"stream-{uuid4().hex}")
    assert third.committed("run") == [{"from": "second"}]
    third.stop()
    assert handle.committed("run") == []


def test_the_handle_works_inside_workers(handle: TaskStreamHandle) -> None:
    """Worker loops get it in their configuration, pickled, on any node; no core is taken by it."""

    @ray.remote(num_cpus=1)
    def loop(source: TaskSource, rank: int, generation: int) -> tuple[str, str]:
        lease = source.lease("run", generation)
        assert lease is not None
        handle = source.open_split("run", generation, rank, lease.task, "train")
        try:
            source.open_split("run", generation, rank, "travel", "train")
        except ReplayRefusedError as error:
            return handle.task, str(error)
        raise AssertionError("a future task's training split was handed out")

    generation = handle.register("run")
    copy = pickle.loads(pickle.dumps(handle))
    answers = ray.get([loop.remote(copy, rank, generation) for rank in (0, 1)])
    assert [task for task, _ in answers] == [TASKS[0]] * 2
    assert all("'train' of task 'travel' is refused" in message for _, message in answers)
    assert sorted(handle.access_log()["rank"].to_pylist()) == [0, 1]


def test_a_handle_has_the_calls_of_a_task_source_and_no_others(handle: TaskStreamHandle) -> None:
    """A misspelt call fails where it is made, not in the actor; and pickle finds nothing odd."""
    for name in ("commited", "_memory", "compact", "__len__"):
        with pytest.raises(AttributeError, match=f"no call '{name}'"):
            getattr(handle, name)
    generation = handle.register(consumer="run")
    assert handle.ready(consumer="run", generation=generation)
    with pytest.raises(TypeError, match="patiently"):
        handle.ready("run", generation, patiently=1.0)  # type: ignore[call-arg]


def test_a_copied_handle_survives_the_actors_death_too(handle: TaskStreamHandle) -> None:
    @ray.remote(num_cpus=1)
    def loop(source: TaskStreamHandle) -> int:
        generation = source.register("run")
        kill_process(source)
        source.lease("run", generation)
        return generation

    assert ray.get(loop.remote(handle)) == 1


def test_a_bad_journal_or_manifest_is_one_typed_error_at_the_start(tmp_path: Path) -> None:
    """Before any worker starts, and not as the unexplained death of an actor."""
    name = f"stream-{uuid4().hex}"
    with pytest.raises(DataError, match="missing"):
        start_task_stream(
            name, None, StreamSettings(str(tmp_path / "journal"), str(tmp_path / "missing"))
        )
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StorageError, match="file/journal"):
        start(tmp_path, name, journal_uri=str(tmp_path / "file" / "journal"))


def test_a_consumer_without_a_task_waits_in_one_call(tmp_path: Path) -> None:
    """Not by asking again and again; and those who wait hold back nobody who feeds them."""
    name, config = f"stream-{uuid4().hex}", StreamConfig(live=True)
    handle = start(tmp_path, name, tasks=(), config=config)
    generations = {f"run-{number}": handle.register(f"run-{number}") for number in range(3)}
    assert not handle.ready("run-0", generations["run-0"], 0.05)
    waits: list[Any] = [
        handle.actor.ready.remote(handle.settings, run, number, 600.0)
        for run, number in generations.items()
    ]
    assert not ray.wait(waits, timeout=0.2)[0]
    assert handle.append(["food"], call_id="call-1") == ["food"]
    assert ray.get(waits) == [True] * 3
    leases = [handle.lease(run, number) for run, number in generations.items()]
    assert [lease and lease.task for lease in leases] == ["food"] * 3
    for run, number in generations.items():
        handle.commit(run, number, "food", {})
    waits = [
        handle.actor.ready.remote(handle.settings, run, number, 600.0)
        for run, number in generations.items()
    ]
    kill_process(handle)  # while they wait
    assert handle.append(["food"], call_id="call-1") == []
    handle.close()
    assert ray.get(waits) == [True] * 3
    assert handle.lease("run-0", generations["run-0"]) is None
    handle.stop()


def test_a_consumer_that_is_gone_holds_back_no_other(tmp_path: Path) -> None:
    """Many runs on one actor, each with its own cursor; the one that stopped goes on by itself."""
    handle = start(tmp_path, f"stream-{uuid4().hex}")
    gone = handle.register("gone")
    held = handle.lease("gone", gone)
    assert held is not None

    def consume(consumer: str) -> list[str]:
        generation, learned = handle.register(consumer), list[str]()
        while (lease := handle.lease(consumer, generation)) is not None:
            handle.open_split(consumer, generation, 0, lease.task, "train")
            handle.commit(consumer, generation, lease.task, {"by": consumer})
            learned.append(lease.task)
        return learned

    names = [f"run-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(consume, names)) == [list(TASKS)] * len(names)
    for name in names:
        assert handle.committed(name) == [{"by": name}] * len(TASKS)
    assert handle.lease("gone", gone) == held
    assert consume("gone") == list(TASKS)
    assert replayed_rows(handle.access_log(), TASKS) == 0
    handle.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_manifest(tmp_path).save(str(tmp_path))
    return tmp_path


def settings_of(root: Path, run: str) -> StreamSettings:
    return StreamSettings(str(root / run / "stream"), str(root), TASKS)


@pytest.fixture
def shared() -> Iterator[SharedStreams]:
    shared = SharedStreams.start()
    yield shared
    shared.stop()


def learn(handle: TaskStreamHandle, run: str, upto: int = len(TASKS)) -> int:
    """Register and learn so many of the tasks; the generation."""
    generation = handle.register(run)
    while len(done := handle.committed(run)) < upto:
        lease = handle.lease(run, generation)
        assert lease is not None
        assert lease.task == TASKS[len(done)]
        handle.open_split(run, generation, 0, lease.task, "train")
        handle.commit(run, generation, lease.task, {"by": run, "task": lease.task})
    return generation


def test_a_run_that_is_gone_holds_back_no_other(root: Path, shared: SharedStreams) -> None:
    """All runs learn on while one never calls again; later that one goes on where it stood."""
    gone = shared.stream(settings_of(root, "gone"))
    generation = learn(gone, "gone", upto=1)
    held = gone.lease("gone", generation)
    names = [f"run-{number}" for number in range(8)]
    handles = {name: shared.stream(settings_of(root, name)) for name in names}
    assert {process_of(handle) for handle in handles.values()} == {process_of(gone)}
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: learn(handles[name], name), names))
    for name, handle in handles.items():
        assert handle.committed(name) == [{"by": name, "task": task} for task in TASKS]
        assert list(handle.status()["consumers"]) == [name]
        log = handle.access_log()
        assert set(log["consumer"].to_pylist()) == {name}
        assert replayed_rows(log, TASKS) == 0
    assert gone.lease("gone", generation) == held
    learn(gone, "gone")
    assert [commit["task"] for commit in gone.committed("gone")] == list(TASKS)


def test_each_run_goes_on_from_its_own_journal_when_the_actor_dies(
    root: Path, shared: SharedStreams
) -> None:
    """The death of one process must cost no trial a task, nor mix two trials' commits."""
    one, two = (shared.stream(settings_of(root, run)) for run in ("one", "two"))
    old = learn(one, "one", upto=1)
    newer = learn(one, "one", upto=2)
    lease = one.lease("one", newer)
    generation = learn(two, "two", upto=1)
    before: list[Any] = [one.access_log(), two.access_log()]
    kill_process(one)
    found = SharedStreams.find(shared.name)  # as another process of the sweep does
    assert found.stream(settings_of(root, "two")).lease("two", generation) is not None
    assert one.lease("one", newer) == lease
    assert [one.access_log(), two.access_log()] == before
    with pytest.raises(StaleGenerationError):
        one.commit("one", old, TASKS[2], {})
    with pytest.raises(NotLeasedError):
        two.commit("two", generation, TASKS[2], {})
    one.commit("one", newer, TASKS[2], {"by": "one"})
    one.commit("one", newer, TASKS[2], {"by": "a repetition"})
    assert one.committed("one")[2:] == [{"by": "one"}]
    assert len(two.committed("two")) == 1
    one.stop()  # ends the run's part alone
    kill_process(two)
    assert len(one.committed("one")) == 3
    two.commit("two", generation, TASKS[1], {})
