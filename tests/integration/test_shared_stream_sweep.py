"""The trials of a sweep at one time on one stream actor, whose process is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from tests.faults.processes import MARK, named
from tests.integration.small_stream import TASKS, adapters, figures, overrides, small_experiment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEADLINE = 1800  # seconds; a loaded machine takes its time to start processes
RANKS = (1, 2)
TUNE = f"+tune={{space:{{method:{{rank:{{grid:{list(RANKS)}}}}}}},max_concurrent:2}}"
LONG = ("cluster.workers=0", "stage.epochs=12")  # so that the trials overlap


def committed(trial: Path) -> int:
    """How many tasks a trial's own journal has as committed."""
    return sum(b'"kind":"commit"' in file.read_bytes() for file in trial.glob("stream/0*.json"))


def test_one_actor_serves_all_trials_and_its_death_changes_nothing(small_stream: Path) -> None:
    """Figures and adapters of each trial are those of a run of its own, to the bit."""
    folder = small_stream / "runs" / "shared" / "trials"
    trials = [folder / f"shared-lpi-{number:03d}-seed0" for number in range(len(RANKS))]
    sweep = subprocess.Popen(
        [
            *(sys.executable, "-m", "system.app", "sweep"),
            *overrides(small_stream, "shared", *LONG, TUNE),
        ],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {MARK: "shared"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end, actors, killed = time.monotonic() + DEADLINE, set[int](), 0
    while sweep.poll() is None and time.monotonic() < end:
        now = [process.pid for process in named("shared", "ray::TaskStreamServer")]
        assert len(now) <= 1, "a trial has an actor of its own"
        actors |= set(now)
        if now and not killed and all(map(committed, trials)):
            killed = now[0]
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.02)
    output, _ = sweep.communicate(timeout=DEADLINE)
    assert sweep.returncode == 0, output
    assert killed, "no moment at which both trials had a commit"
    assert len(actors) == 2, "the one that was killed, and the same started again"
    for rank, trial in zip(RANKS, trials, strict=True):
        alone, name = f"rank-{rank}", f"shared/trials/{trial.name}"
        changes = (*LONG, f"method.rank={rank}")
        carry_out(small_experiment(small_stream, alone, *changes), Console(quiet=True))
        assert figures(small_stream, name) == figures(small_stream, alone)
        assert adapters(small_stream, name) == adapters(small_stream, alone)
        assert committed(trial) == len(TASKS)
        log = pq.read_table(trial / "access_log.parquet")
        assert set(log["consumer"].to_pylist()) == {trial.name}
