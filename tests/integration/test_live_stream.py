"""A live run: fed while it goes on and while it does not, and in the end like one that was given
all its tasks at the start.
"""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from system import app
from system.storage.run_directory import CLUSTER
from tests.integration.small_stream import LEFT_OUT, TASKS, adapters, figures, overrides

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEADLINE = 600.0  # seconds for one step; a loaded machine takes its time to start processes
LIVE = ("stream.live=true", "benchmark.tasks=[animal]", "stream.max_pending=2")


class LiveRun:
    """A live run as commands in processes of their own."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.where = (f"run_name={name}", f"storage_path={root / 'runs'}")
        self.driver: subprocess.Popen[str] | None = None

    @property
    def directory(self) -> Path:
        return self.root / "runs" / self.name

    def start(self) -> None:
        settings = overrides(self.root, self.name, *LIVE, "cluster.workers=0")
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "system.app", "run", *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stream(self, *arguments: str) -> tuple[int, str]:
        """`promptide stream` with the run's place; its return code and what it printed."""
        command = [sys.executable, "-m", "system.app", "stream", *arguments, *self.where]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def wait_for(self, reached: Callable[[], bool]) -> None:
        assert self.driver is not None
        until = time.monotonic() + DEADLINE
        while not reached():
            assert self.driver.poll() is None, self.driver.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.1)

    def learned(self, tasks: int) -> bool:
        return sum('"kind":"commit"' in record for record in self.records()) == tasks

    def records(self) -> list[str]:
        return [file.read_text() for file in sorted((self.directory / "stream").glob("*.json"))]

    def end(self) -> str:
        assert self.driver is not None
        output, _ = self.driver.communicate(timeout=DEADLINE)
        assert self.driver.returncode == 0, output
        return output


def metrics(root: Path, name: str) -> dict[str, object]:
    """All of metrics.json that does not name the run or its clock."""
    values: dict[str, object] = json.loads((root / "runs" / name / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key not in LEFT_OUT}


def test_a_live_run_ends_like_one_given_all_tasks_at_the_start(small_stream: Path) -> None:
    """To the bit: adapters, the whole matrix over all tasks, and the averages."""
    root = small_stream
    run = LiveRun(root, "live")
    # Before the first start: the run is begun by the append, with all of its settings.
    settings = overrides(root, "live", *LIVE, "cluster.workers=0")
    assert app.main(["stream", "append", *settings, "plant"]) == 2  # no such task
    assert app.main(["stream", "append", *settings, TASKS[1]]) == 0
    assert app.main(["stream", "append", *settings, TASKS[2]]) == 2  # two are pending

    run.start()
    run.wait_for(lambda: run.learned(2))
    # While it goes on: through Ray, and the tables so far are there to report on.
    code, shown = run.stream("status")
    assert code == 0, shown
    assert "goes on" in shown
    assert "pending: 0 of at most 2; open" in shown
    code, shown = run.stream("append", TASKS[2])
    assert code == 0, shown
    run.wait_for(lambda: run.learned(3))
    # The driver looks twice a second and writes what there is for a report.
    run.wait_for(lambda: {trained for trained, _, _ in figures(root, "live")} == {-1, 0, 1, 2})

    # The driver dies; closed on storage, it has nothing left to learn.
    assert run.driver is not None
    run.driver.send_signal(signal.SIGKILL)
    run.driver.communicate(timeout=DEADLINE)
    code, shown = run.stream("status")
    assert code == 0, shown
    assert "does not go on" in shown
    assert shown.count("sealed") == 3
    code, shown = run.stream("close")
    assert code == 0, shown
    code, shown = run.stream("append", TASKS[2])
    assert (code, "was closed" in shown) == (2, True), shown
    run.start()
    run.end()
    assert not (run.directory / CLUSTER).exists()

    assert adapters(root, "live") == adapters(root, "reference")
    assert figures(root, "live") == figures(root, "reference")
    assert metrics(root, "live") == metrics(root, "reference")


def test_commands_that_cannot_be_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, named in (
        (["feed"], "append|close|status"),
        (["status", "run_name=nowhere", f"storage_path={tmp_path}"], "no such run"),
        (["status", "food"], "append|close|status"),
        (["append", "run_name=nowhere", f"storage_path={tmp_path}", "food"], "stream.live=false"),
    ):
        assert app.main(["stream", *arguments]) == 2
        assert named in capsys.readouterr().err


def test_status_is_a_table_that_can_be_read() -> None:
    from system.report.terminal.stream_table import print_stream
    from system.stream.task_source import StreamStatus

    since = "2026-01-02T03:04:05+00:00"
    states = {"animal": "sealed", "food": "leased", "person": "pending"}
    status: StreamStatus = {
        "journal": "runs/x/stream",
        "benchmark": "small",
        "fingerprint": "abc",
        "tasks": list(states),
        "open": True,
        "given": list(states),
        "pending": ["person"],
        "max_pending": 7,
        "consumers": {
            "x": {
                "generation": 3,
                "current_task": "food",
                "committed": 1,
                "ranks": 2,
                "tasks": [
                    {"task": task, "index": index, "state": state, "since": since}
                    for index, (task, state) in enumerate(states.items())
                ],
                "progress": {
                    "phase": "train",
                    "task": "food",
                    "task_index": 1,
                    "tasks": 3,
                    "epoch": 4,
                    "epochs": 10,
                },
                "seconds_since_progress": 0.1,
            }
        },
    }
    file = io.StringIO()
    print_stream("x", status, {"animal": 10}, "goes on", Console(file=file, width=100))
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert ["animal", "sealed", "2026-01-02", "03:04:05"] in [line[:4] for line in lines]
    assert next(line for line in lines if line[:1] == ["food"])[-3:] == ["5", "of", "10"]
    assert "pending: 1 of at most 7; open, it takes more tasks" in file.getvalue()
    assert "generation 3, 2 ranks" in file.getvalue()
    assert "task 2/3 food: training, epoch 5/10; last progress 0 s ago" in file.getvalue()
