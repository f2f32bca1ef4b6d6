"""A sweep of whole streams on Ray Tune: stopped early, killed, started again, compared."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.cli.sweep import sweep
from system.config.compose import compose
from tests.integration.small_stream import TASKS, figures, overrides
from tests.loggers.event_files import scalars
from tests.report.page_reader import PageReader

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEADLINE = 240  # seconds; a loaded machine takes its time to start processes
SPACE = "{method:{rank:{grid:[1,2,4]}}}"
TUNE = f"+tune={{space:{SPACE},scheduler:asha,max_concurrent:1}}"


def sweep_overrides(root: Path, run_name: str, *more: str) -> list[str]:
    return overrides(root, run_name, "cluster.workers=0", TUNE, *more)


def table(root: Path, run_name: str) -> list[dict[str, object]]:
    """What has to be the same however a sweep came to its end."""
    columns = ["setting", "seed", "status", "stopped_after", "figure", "figure_by_task"]
    return list(
        pq.read_table(root / "runs" / run_name / "trials.parquet", columns=columns).to_pylist()
    )


def best(root: Path, run_name: str) -> int:
    file = root / "runs" / run_name / "best.yaml"
    return int(compose([], str(file)).method["rank"])


def features(root: Path) -> dict[str, int]:
    """The unprompted features on storage: name -> when it was written."""
    return {file.name: file.stat().st_mtime_ns for file in (root / "data" / "features").iterdir()}


@pytest.fixture(scope="module")
def swept(small_stream: Path) -> Path:
    """A root with the sweep `undisturbed`; the run `reference` left features before it."""
    before = features(small_stream)
    sweep(sweep_overrides(small_stream, "undisturbed"), None, Console(quiet=True))
    assert features(small_stream) == before, "a trial computed what another run had left"
    return small_stream


def test_some_are_stopped_and_the_others_are_compared(swept: Path) -> None:
    rows = table(swept, "undisturbed")
    assert [row["setting"] for row in rows] == ["lpi-000", "lpi-001", "lpi-002"]
    statuses = [row["status"] for row in rows]
    assert statuses[0] == "finished"  # nothing was before it
    assert set(statuses) == {"finished", "stopped"}
    stopped = rows[statuses.index("stopped")]
    trials = swept / "runs" / "undisturbed" / "trials"
    assert list((trials / f"undisturbed-{stopped['setting']}-seed0" / "stream").glob("*.json"))
    events = scalars(trials / "undisturbed-lpi-000-seed0" / "tensorboard")
    assert ("final/average_t2i_r1", len(TASKS)) in {(name, step) for name, step, _ in events}
    page = PageReader.of(swept / "runs" / "undisturbed" / "report.html")
    assert not [link for link in page.references if not link.startswith(("#", "data:"))]
    assert len(page.tables["comparison"]) == len(rows) + 1
    assert len(page.data["data-curves"]["data"]) >= len(rows)


def test_the_best_setting_again_has_the_same_figures(swept: Path) -> None:
    """`promptide run --config best.yaml`, to the bit."""
    file = swept / "runs" / "undisturbed" / "best.yaml"
    carry_out(compose(["run_name=again"], str(file)), Console(quiet=True))
    rank = best(swept, "undisturbed")
    number = {1: 0, 2: 1, 4: 2}[rank]
    trial = f"undisturbed/trials/undisturbed-lpi-{number:03d}-seed0"
    assert figures(swept, "again") == figures(swept, trial)


def test_a_killed_sweep_goes_on_to_the_same_end(swept: Path) -> None:
    """SIGKILL of the driver while the second trial learns: the first is not touched again."""
    trials = swept / "runs" / "killed" / "trials"
    first, second = (trials / f"killed-lpi-{number:03d}-seed0" for number in (0, 1))
    command = [sys.executable, "-m", "system.app", "sweep", *sweep_overrides(swept, "killed")]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + DEADLINE
    while not (second / "adapters" / "task-0000.safetensors").exists():
        assert time.monotonic() < end, f"waited {DEADLINE} s for the second trial"
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=DEADLINE)
    finished_at = (first / "metrics.json").stat().st_mtime_ns
    assert not (trials.parent / "trials.parquet").exists(), "it was too late to kill it"

    again = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 finished" in again.stdout
    assert (first / "metrics.json").stat().st_mtime_ns == finished_at
    assert table(swept, "killed") == table(swept, "undisturbed")
    assert best(swept, "killed") == best(swept, "undisturbed")


def test_a_sweep_killed_at_random_points_goes_on_to_the_same_end(swept: Path) -> None:
    """Two trials at a time, SIGKILL of the driver wherever it happens to be, again and again."""
    name, rng = "random", random.Random(0)
    more = ["tune.max_concurrent=2"]
    command = [sys.executable, "-m", "system.app", "sweep", *sweep_overrides(swept, name, *more)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    killed = 0
    for _ in range(3):
        driver = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(5, 18))
        killed += driver.poll() is None
        driver.kill()
        driver.wait()
    assert killed, "it was too late to kill it"
    again = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert table(swept, name) == table(swept, "undisturbed")
    assert best(swept, name) == best(swept, "undisturbed")
