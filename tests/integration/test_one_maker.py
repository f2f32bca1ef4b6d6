"""Two runs that need the same model at the same time train it once: the second waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.diff_prompt.mask_files import SIDE, prepare_shapes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LONGEST = 1200.0  # seconds until something shows, on a loaded machine
#: `promptide`, whose Mask-VAE stands still after its first epoch until a file is there.
GATED = """
import pathlib, sys, time
from system import app
from system.engine.epochs import EpochLoop
epoch = EpochLoop.epoch
def gated(loop):
    mask_vae = loop.training.subject == "the Mask-VAE"
    while mask_vae and loop.position.epoch == 1 and not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.05)
    return epoch(loop)
EpochLoop.epoch = gated
sys.exit(app.main(sys.argv[2:]))
"""


class Run:
    """A `promptide run` of both stages below the alignment, in processes of its own."""

    def __init__(self, root: Path, name: str) -> None:
        settings = {
            "run_name": name,
            "storage_path": root / "runs",
            "data_path": root,
            "benchmark.name": "shapes",
            "cluster.workers": 0,
            "stage.mask_vae.vae.image_size": SIDE,
            "stage.mask_vae.vae.channels": "[8,16]",
            "stage.mask_vae.batch_size": 8,
            "stage.mask_vae.epochs": 3,
            "stage.network.depth": 1,
            "stage.batch_size": 8,
            "stage.epochs": 2,
            "stage.evaluated": 5,
        }
        command = [sys.executable, "-c", GATED, str(root / "go")]
        command += ["run", "experiment=prompt_generator"]
        command += [f"{key}={value}" for key, value in settings.items()]
        self.folder = root / "runs" / name
        self.below = root / "runs" / f"{name}-mask_vae"
        self.output = root / f"{name}.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )

    def until(self, what: Callable[[], Any]) -> None:
        """Wait for something, which the run must not end before."""
        end = time.monotonic() + LONGEST
        while not what():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.05)

    def ended(self) -> None:
        """Wait for a good end."""
        assert self.process.wait(LONGEST) == 0, self.output.read_text()

    def metrics(self, folder: Path) -> dict[str, Any]:
        """All figures but the run's name, and the checksum of both."""
        found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        del found["run"], found["seal"]
        return found


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    prepare_shapes(tmp_path)
    begun: list[Run] = []

    def begin(name: str) -> Run:
        begun.append(Run(tmp_path, name))
        return begun[-1]

    yield begin
    for run in begun:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


def one_waits_for_the_other(runs: Callable[[str], Run]) -> tuple[Run, Run]:
    """Two runs that need the same models, the first one in the middle of stage 1."""
    first = runs("first")
    first.until((first.below / "checkpoint.safetensors").exists)
    second = runs("second")
    second.until(lambda: f"waiting for process {first.process.pid}" in second.output.read_text())
    return first, second


def test_the_second_waits_and_takes_what_the_first_made(
    tmp_path: Path, runs: Callable[[str], Run]
) -> None:
    """Each trial of a sweep over Diff-Prompt would else train the hours of its stages below."""
    first, second = one_waits_for_the_other(runs)
    assert not (second.below / "checkpoint.safetensors").exists()
    (tmp_path / "go").touch()
    first.ended()
    second.ended()
    assert not (second.below / "checkpoint.safetensors").exists(), "stage 1 was trained twice"
    trained = [(run.folder / "checkpoint.safetensors").exists() for run in (first, second)]
    assert sorted(trained) == [False, True], "stage 2 was trained twice, or never"
    assert first.metrics(first.below) == second.metrics(second.below)
    assert first.metrics(first.folder) == second.metrics(second.folder)
    assert not list((tmp_path / "models").glob("*/writer.json"))


def test_the_second_makes_it_where_the_first_is_killed(
    tmp_path: Path, runs: Callable[[str], Run]
) -> None:
    """A dead run must not keep all others waiting."""
    first, second = one_waits_for_the_other(runs)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    (tmp_path / "go").touch()
    second.ended()
    assert (second.below / "checkpoint.safetensors").exists()
    assert len(second.metrics(second.below)["training_log"]) == 3
