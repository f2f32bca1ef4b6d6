"""Whatever is killed, the same command goes on and ends with the same figures."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.errors import StorageError
from system.storage.files import Folder
from system.storage.writer_lock import LOCK_NAME, sole_writer
from tests.integration.killing import DEADLINE, wait_for, worker_pids
from tests.integration.small_stream import adapters, figures, overrides, small_experiment

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def _committed(root: Path, run_name: str) -> int:
    return len(list((root / "runs" / run_name / "adapters").glob("task-*.safetensors")))


def test_a_killed_worker_costs_nothing_but_time(small_stream: Path) -> None:
    """SIGKILL inside the second task: the group restarts there, nothing is learned twice."""
    name = "worker-killed"
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: _committed(small_stream, name) >= 1, "the first task")
        wait_for(lambda: bool(worker_pids(os.getpid())), "a worker")
        killed.append(worker_pids(os.getpid())[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    experiment = small_experiment(small_stream, name, "cluster.workers=2", "stage.epochs=3")
    carry_out(experiment, Console(quiet=True))
    killer.join()
    assert killed
    assert adapters(small_stream, name) == adapters(small_stream, "reference")
    assert figures(small_stream, name) == figures(small_stream, "reference")
    log = pq.read_table(small_stream / "runs" / name / "access_log.parquet")
    assert max(log.column("generation").to_pylist()) > 1, "the worker group was not restarted"


def test_a_second_driver_is_refused_and_touches_nothing(small_stream: Path) -> None:
    """Two drivers in one run directory would mix their files."""
    name = "twice"
    folder = Folder.of(small_stream / "runs" / name)
    with sole_writer(folder):
        with pytest.raises(StorageError, match=f"process {os.getpid()}"):
            carry_out(small_experiment(small_stream, name), Console(quiet=True))
        assert folder.names() == [LOCK_NAME]


@pytest.fixture
def cli_environment() -> dict[str, str]:
    """An environment in which the command starts a Ray of its own."""
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "sigkill"])
def test_an_interrupted_command_goes_on(
    small_stream: Path, cli_environment: dict[str, str], number: signal.Signals
) -> None:
    """The driver dies in the middle of the stream; the command again ends with the same figures."""
    name = f"driver-{number.name.lower()}"
    command = [
        *(sys.executable, "-m", "system.app", "run"),
        *overrides(small_stream, name, "cluster.workers=1", "cluster.address=local"),
    ]
    first = subprocess.Popen(
        command, env=cli_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: _committed(small_stream, name) >= 1, "the first task")
    first.send_signal(number)
    output, _ = first.communicate(timeout=DEADLINE)
    assert _committed(small_stream, name) < 3, "it was too late to interrupt"
    if number == signal.SIGINT:
        assert first.returncode == 130, output
        assert "the same command goes on" in output
    again = subprocess.run(
        command, env=cli_environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on with" in again.stdout
    assert not (small_stream / "runs" / name / LOCK_NAME).exists()
    assert adapters(small_stream, name) == adapters(small_stream, "reference")
    assert figures(small_stream, name) == figures(small_stream, "reference")
