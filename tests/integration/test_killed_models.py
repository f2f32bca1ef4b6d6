"""A run of Diff-Prompt, killed in each of its three stages, ends as if nothing had happened."""

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

from tests.diff_prompt.mask_files import SIDE, prepare_shapes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LONGEST = 600.0  # seconds until a stage has left its first checkpoint, on a loaded machine


def command(root: Path) -> list[str]:
    settings = {
        "run_name": "killed",
        "storage_path": root / "runs",
        "data_path": root,
        "benchmark.name": "shapes",
        "cluster.workers": 0,
        "method.generator.mask_vae.vae.image_size": SIDE,
        "method.generator.mask_vae.vae.channels": "[8,16]",
        "method.generator.mask_vae.batch_size": 8,
        "method.generator.mask_vae.epochs": 30,
        "method.generator.network.depth": 1,
        "method.generator.batch_size": 8,
        "method.generator.epochs": 30,
        "method.generator.evaluated": 5,
        "stage.batch_size": 8,
        "stage.checkpoint_steps": 1,
        "stage.epochs": 12,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    run = [sys.executable, "-m", "system.app", "run", "experiment=diff_prompt_small"]
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


def figures(root: Path) -> tuple[dict[str, Any], list[bytes]]:
    """All figures of stage 3 but its times, and the weights of all stages."""
    metrics = json.loads((root / "runs" / "killed" / "metrics.json").read_text())
    del metrics["wall_seconds"], metrics["denoising_steps"], metrics["seal"]
    weights = sorted((root / "models").glob("*/*.safetensors"))
    assert len({file.parent for file in weights}) == 2
    weights += (root / "runs" / "killed" / "adapters").glob("*.safetensors")  # one joined task's
    return metrics, [file.read_bytes() for file in weights]


def test_a_kill_in_each_stage_changes_no_figure(tmp_path: Path) -> None:
    """Clusters kill: what was learned must go on, to the same bits."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        prepare_shapes(root)
    for stage in ("killed-prompt_generator-mask_vae", "killed-prompt_generator", "killed"):
        kill_after(killed, stage)
    for root in (whole, killed):
        done = subprocess.run(command(root), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert figures(killed) == figures(whole)
    logs = [log.read_text() for log in (killed / "runs" / "killed" / "logs").iterdir()]
    assert any("going on after" in log for log in logs)
