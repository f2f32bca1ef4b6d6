"""A run of two model stages that is killed in each of them ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.stages.mask_files import SIDE, prepare_shapes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LONGEST = 600.0  # seconds until a stage has left its first checkpoint, on a loaded machine


def command(root: Path) -> list[str]:
    settings = {
        "run_name": "killed",
        "storage_path": root / "runs",
        "data_path": root,
        "benchmark.name": "shapes",
        "cluster.workers": 0,
        "stage.mask_vae.vae.image_size": SIDE,
        "stage.mask_vae.vae.channels": "[8,16]",
        "stage.mask_vae.batch_size": 8,
        "stage.mask_vae.epochs": 30,
        "stage.network.depth": 1,
        "stage.batch_size": 8,
        "stage.epochs": 30,
        "stage.evaluated": 5,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    run = [sys.executable, "-m", "system.app", "run", "experiment=prompt_generator"]
    return run + overrides


def kill_after(root: Path, checkpoint: str) -> None:
    """Start the run, and kill it when a stage has left a checkpoint."""
    file = root / "runs" / checkpoint / "checkpoint.safetensors"
    with (root / "output.txt").open("a") as output:
        process = subprocess.Popen(
            command(root), stdout=output, stderr=output, start_new_session=True
        )
        until = time.monotonic() + LONGEST
        while not file.exists():
            assert process.poll() is None, (root / "output.txt").read_text()
            assert time.monotonic() < until, f"no {file}"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def figures(root: Path) -> tuple[Any, bytes]:
    """All figures of stage 2, and its weights."""
    (model,) = (root / "models").glob("prompt_generator-*")
    metrics = json.loads((root / "runs" / "killed" / "metrics.json").read_text())
    return metrics, (model / "generator.safetensors").read_bytes()


def test_a_kill_in_each_stage_changes_no_figure(tmp_path: Path) -> None:
    """Clusters kill: what was learned must go on, to the same bits."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        prepare_shapes(root)
    kill_after(killed, "killed-mask_vae")
    kill_after(killed, "killed")
    for root in (whole, killed):
        done = subprocess.run(command(root), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert figures(killed) == figures(whole)
    logs = [log.read_text() for log in (killed / "runs" / "killed" / "logs").iterdir()]
    assert any("going on after" in log for log in logs)
