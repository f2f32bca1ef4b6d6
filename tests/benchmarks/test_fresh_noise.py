"""What stage 3 of Diff-Prompt saves by drawing each sample's latents once: a ratio of one run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.conftest import Performance

EPOCHS, EXPRESSIONS = 2, 192


RUN = (sys.executable, "-m", "system.app")


def run(root: Path, *, fresh: bool) -> dict[str, Any]:
    """The metrics of `experiment=diff_prompt_small` on one small task.

    Stages 1 and 2 are barely trained, since a denoising step takes as long with any weights.
    """
    settings = {
        "run_name": "fresh" if fresh else "stored",
        "storage_path": root / "runs",
        "data_path": root,
        "cluster.workers": 0,
        "benchmark.tasks": "[food]",
        "++benchmark.options.tasks": "[food]",
        "++benchmark.options.train": 40,
        "++benchmark.options.val": 8,
        "++benchmark.options.test": 8,
        "method.fresh_noise": fresh,
        "method.generator.epochs": 1,
        "method.generator.evaluated": 8,
        "method.generator.mask_vae.epochs": 1,
        "stage.epochs": EPOCHS,
        "stage.train_expressions": EXPRESSIONS,
        "stage.test_expressions": 8,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    for command in ("prepare", "run"):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "system.app",
                command,
                "experiment=diff_prompt_small",
                *overrides,
            ],
            check=True,
            capture_output=True,
        )
    found: dict[str, Any] = json.loads(
        (root / "runs" / settings["run_name"] / "metrics.json").read_text()  # type: ignore[operator]
    )
    return found


@pytest.mark.benchmark
def test_stored_latents_against_fresh_ones(tmp_path: Path, performance: Performance) -> None:
    stored, fresh = run(tmp_path, fresh=False), run(tmp_path, fresh=True)
    what = f"stage 3, {EPOCHS} epochs of {EXPRESSIONS} expressions, small models"
    seconds = [found["wall_seconds"] for found in (stored, fresh)]
    for name, unit, figures in (
        ("denoising steps", "steps", [found["denoising_steps"] for found in (stored, fresh)]),
        ("drawing and training", "s", [each.get("latents", 0) + each["train"] for each in seconds]),
    ):
        performance.compare(
            f"{what}: {name}",
            ours=figures[0],
            other=figures[1],
            unit=unit,
            against="fresh noise in each epoch",
        )
    assert fresh["denoising_steps"] > stored["denoising_steps"] > 0
