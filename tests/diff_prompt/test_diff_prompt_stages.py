"""The three stages of Diff-Prompt by one command: in order, once, and diffusion for one epoch."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from system import app
from system.engine.model_stage import MODEL_STAGES
from system.errors import ConfigError
from system.objectives.grounding.alignment.alignment_plan import AlignmentExperiment, AlignmentPlan
from tests.diff_prompt.generator_parts import STAGE
from tests.diff_prompt.mask_files import prepare_shapes
from tests.grounders.small_grounding_dino import write_small_grounding_dino
from tests.objectives.grounding.alignment.test_alignment import experiment as alignment

METHOD = {
    "name": "diff_prompt",
    "generator": STAGE,
    "prompt_length": 2,
    "depth": 2,
    "steps": 5,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("diff_prompt")
    prepare_shapes(root)
    write_small_grounding_dino(root / "dino")
    return root


def experiment(root: Path, name: str, epochs: int = 2, **method: Any) -> AlignmentExperiment:
    run = alignment(root, epochs=epochs, evaluation_batch=3)
    return replace(run, run_name=name, method={**METHOD, **method})


@pytest.mark.ray
def test_one_command_runs_what_is_not_there_and_diffuses_once(root: Path, ray_local: None) -> None:
    """A second epoch or trial that ran the diffusion again would take many times as long."""
    shown = io.StringIO()
    app.train_model(experiment(root, "first"), Console(file=shown, width=200))
    told = shown.getvalue()
    order = [told.index(f"runs/first{stage}") for stage in ("-prompt_generator-mask_vae\n", "\n")]
    assert order == sorted(order, reverse=True)
    assert (root / "runs" / "first-prompt_generator" / "report.html").exists()
    assert denoised(root, "first") == (24 + 6) * 5  # train and test, however many epochs
    again = io.StringIO()
    app.train_model(experiment(root, "longer", epochs=3), Console(file=again, width=200))
    assert denoised(root, "longer") == 0
    assert not (root / "runs" / "longer-prompt_generator").exists() or (
        "the model is there already" in again.getvalue()
    )
    app.train_model(experiment(root, "fresh", fresh_noise=True), Console(quiet=True))
    assert denoised(root, "fresh") == (2 * 24 + 6) * 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 9}, "layers"),
        ({"steps": 2}, "at least 3"),
        ({"steps": 8}, r"method\.steps=8 must divide .*schedule\.steps=20"),
        ({"generator": {**STAGE, "condition_dropout": 0.0}, "guidance": 2.0}, r"guidance=2\.0"),
        ({"generator": {**STAGE, "network": {"width": 64}}}, "width=128"),
        ({"generator": {**STAGE, "name": "alignment"}}, "generator"),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_stage(
    root: Path, change: dict[str, Any], named: str
) -> None:
    """Hours of training would otherwise come before the error."""
    with pytest.raises(ConfigError, match=named):
        MODEL_STAGES.get("alignment").finished(experiment(root, "wrong", **change))


def test_without_instance_prompts_no_generator_is_needed(root: Path) -> None:
    run = experiment(root, "global", specific=[])
    assert not MODEL_STAGES.get("alignment").before(run)
    full = experiment(root, "full")
    (stage_2,) = MODEL_STAGES.get("alignment").before(full)
    assert stage_2.stage["name"] == "prompt_generator"
    assert AlignmentPlan.of(run).method().latent_needs is None


def denoised(root: Path, name: str) -> int:
    """Denoising steps that a run's last start ran, each for one sample."""
    metrics = json.loads((root / "runs" / name / "metrics.json").read_text())
    steps: int = metrics["denoising_steps"]
    return steps
