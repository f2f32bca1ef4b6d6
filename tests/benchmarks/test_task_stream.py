"""How fast the task stream answers, and how soon it is back after its death: reported only."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console

from actors.handle import SharedStreams, TaskStreamHandle, start_task_stream
from actors.settings import StreamSettings
from actors.state.task_stream_state import TaskStream
from system.stream.task_source import TaskSource
from tests.actors.streams import kill_process, make_manifest

pytestmark = pytest.mark.benchmark

TASKS = tuple(f"task-{number:03d}" for number in range(100))


@pytest.fixture
def report(
    capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> Callable[[str, float, str], None]:
    """Shows a figure on the terminal and keeps it in the JUnit report."""

    def show(name: str, value: float, unit: str) -> None:
        record_property(name, value)
        with capsys.disabled():
            Console().print(f"{name}: {value:.3g} {unit}")

    return show


def leases_and_commits(sources: Mapping[str, TaskSource]) -> float:
    """Consumers whose tasks take no time: pairs of one lease and one commit a second, in all."""

    def consume(consumer: str) -> None:
        source = sources[consumer]
        generation = source.register(consumer)
        while (lease := source.lease(consumer, generation)) is not None:
            source.commit(consumer, generation, lease.task, {"row": [0.0] * len(TASKS)})

    started = time.perf_counter()
    with ThreadPoolExecutor(len(sources)) as pool:
        list(pool.map(consume, sources))
    return len(sources) * len(TASKS) / (time.perf_counter() - started)


def seconds_until_back(handles: Sequence[TaskStreamHandle]) -> float:
    """From the actor's death until the last of its streams has answered again."""
    kill_process(handles[0])
    started = time.perf_counter()
    with ThreadPoolExecutor(len(handles)) as pool:
        list(pool.map(lambda handle: handle.status(), handles))
    return time.perf_counter() - started


def test_in_process(tmp_path: Path, report: Callable[[str, float, str], None]) -> None:
    manifest = make_manifest(tmp_path, TASKS)
    journal = str(tmp_path / "journal")
    rate = leases_and_commits({"run": TaskStream(journal, manifest)})
    report("task stream, in process: lease + commit", rate, "pairs/s")
    for what in ("202 records", "a snapshot of them"):
        started = time.perf_counter()
        stream = TaskStream(journal, manifest)
        report(f"task stream, in process: from {what}", time.perf_counter() - started, "s")
        stream.compact()
        stream.register("run")  # which removes the records


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("consumers", [1, 4, 16])
def test_one_stream(
    tmp_path: Path, report: Callable[[str, float, str], None], consumers: int
) -> None:
    """Many consumers in one journal, as of a live stream."""
    make_manifest(tmp_path, TASKS).save(str(tmp_path))
    name, journal = f"stream-{uuid4().hex}", str(tmp_path / "journal")
    handle = start_task_stream(name, None, StreamSettings(journal, str(tmp_path)))
    case = f"task stream, one journal, {consumers} consumers"
    rate = leases_and_commits({f"run-{number}": handle for number in range(consumers)})
    report(f"{case}: lease + commit", rate, "pairs/s")
    report(f"{case}: back after SIGKILL", seconds_until_back([handle]), "s")
    handle.stop()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("consumers", [1, 4, 16])
def test_shared_streams(
    tmp_path: Path, report: Callable[[str, float, str], None], consumers: int
) -> None:
    """Many consumers on one actor, each with its own journal: the trials of a sweep."""
    make_manifest(tmp_path, TASKS).save(str(tmp_path))
    shared = SharedStreams.start()
    handles = {
        name: shared.stream(StreamSettings(str(tmp_path / name), str(tmp_path)))
        for name in (f"run-{number}" for number in range(consumers))
    }
    case = f"task stream, shared actor, {consumers} consumers"
    report(f"{case}: lease + commit", leases_and_commits(handles), "pairs/s")
    report(f"{case}: back after SIGKILL", seconds_until_back(list(handles.values())), "s")
    shared.stop()
