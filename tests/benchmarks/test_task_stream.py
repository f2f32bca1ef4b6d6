"""How fast the task stream answers, and how soon it is back after its death: reported only."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console

from actors.stream_settings import StreamSettings
from actors.stream_state import TaskStream
from actors.task_stream import start_task_stream
from system.stages.task_source import TaskSource
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


def leases_and_commits(source: TaskSource, consumers: int = 1) -> float:
    """Run streams whose tasks take no time: pairs of one lease and one commit a second, in all."""

    def consume(consumer: str) -> None:
        generation = source.register(consumer)
        while (lease := source.lease(consumer, generation)) is not None:
            source.commit(consumer, generation, lease.task, {"row": [0.0] * len(TASKS)})

    started = time.perf_counter()
    with ThreadPoolExecutor(consumers) as pool:
        list(pool.map(consume, [f"run-{number}" for number in range(consumers)]))
    return consumers * len(TASKS) / (time.perf_counter() - started)


def test_in_process(tmp_path: Path, report: Callable[[str, float, str], None]) -> None:
    manifest = make_manifest(tmp_path, TASKS)
    journal = str(tmp_path / "journal")
    rate = leases_and_commits(TaskStream(journal, manifest))
    report("task stream, in process: lease + commit", rate, "pairs/s")
    started = time.perf_counter()
    TaskStream(journal, manifest)
    seconds = time.perf_counter() - started
    report("task stream, in process: rebuilt from 202 records", seconds, "s")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("consumers", [1, 4, 16])
def test_actor(tmp_path: Path, report: Callable[[str, float, str], None], consumers: int) -> None:
    make_manifest(tmp_path, TASKS).save(str(tmp_path))
    name, journal = f"stream-{uuid4().hex}", str(tmp_path / "journal")
    handle = start_task_stream(name, None, StreamSettings(journal, str(tmp_path)))
    case = f"task stream, actor, {consumers} consumers"
    report(f"{case}: lease + commit", leases_and_commits(handle, consumers), "pairs/s")
    kill_process(handle)
    started = time.perf_counter()
    handle.status()
    report(f"{case}: back after SIGKILL", time.perf_counter() - started, "s")
    handle.stop()
