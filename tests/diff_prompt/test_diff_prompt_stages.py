"""All three stages of Diff-Prompt by one command: what is not there is trained, once."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.objectives.objective import OBJECTIVES
from system.stream.preflight import check_experiment
from tests.diff_prompt.generator_parts import STAGE
from tests.integration.small_rec_stream import joined_overrides, prepare_small_rec

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
    prepare_small_rec(root)
    return root


def experiment(root: Path, name: str, *more: str, **method: Any) -> ExperimentConfig:
    # Three test expressions of each task fill a block: none is drawn twice.
    sizes = ("cluster.workers=0", "stage.epochs=2", "evaluation.batch_size=3")
    run = compose(joined_overrides(root, name, *sizes, *more))
    return replace(run, method={**METHOD, **method})


@pytest.mark.ray
def test_one_command_runs_what_is_not_there_and_diffuses_once(root: Path, ray_local: None) -> None:
    """A second epoch or trial that ran the diffusion again would take many times as long."""
    shown = io.StringIO()
    carry_out(experiment(root, "first"), Console(file=shown, width=200))
    told = shown.getvalue()
    assert "runs/first-prompt_generator-mask_vae\n" in told
    assert (root / "runs" / "first-prompt_generator" / "report.html").exists()
    assert denoised(root, "first") == (24 + 6) * 5  # train and test, however many epochs
    again = io.StringIO()
    longer = experiment(root, "longer", "stage.epochs=3")
    carry_out(longer, Console(file=again, width=200))
    assert denoised(root, "longer") == 0
    assert "the model is there already" in again.getvalue()
    carry_out(experiment(root, "fresh", fresh_noise=True), Console(quiet=True))
    assert denoised(root, "fresh") == (2 * 24 + 6) * 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 9}, "layers"),
        ({"steps": 2}, "at least 3"),
        ({"steps": 8}, r"method\.steps=8 must divide .*schedule\.steps=20"),
        ({"generator": {**STAGE, "condition_dropout": 0.0}, "guidance": 2.0}, r"guidance=2\.0"),
        ({"generator": {**STAGE, "network": {"width": 64}}}, "width=128"),
        ({"generator": {**STAGE, "name": "alignment"}}, "generator|alignment"),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_stage(
    root: Path, change: dict[str, Any], named: str
) -> None:
    """Hours of training would otherwise come before the error."""
    with pytest.raises(ConfigError, match=named):
        check_experiment(experiment(root, "wrong", **change))


def test_without_instance_prompts_no_generator_is_needed(root: Path) -> None:
    objective = OBJECTIVES.get("grounding")
    assert not objective.before(experiment(root, "global", specific=[]))
    (stage_2,) = objective.before(experiment(root, "full"))
    assert stage_2.stage["name"] == "prompt_generator"


def test_the_generator_is_that_of_the_tasks_which_are_joined(root: Path) -> None:
    """A separate stream's is that of all tasks, so that streams of any of them share it."""
    objective = OBJECTIVES.get("grounding")
    one = experiment(root, "one", "benchmark.tasks=[disk]")
    apart = replace(one, stream=replace(one.stream, joined=False))
    tasks = [objective.before(run)[0].benchmark.tasks for run in (one, apart)]
    assert tasks == [("disk",), None]


def denoised(root: Path, name: str) -> int:
    """Denoising steps that a run's last start ran, each for one sample."""
    metrics = json.loads((root / "runs" / name / "metrics.json").read_text())
    steps: int = metrics["denoising_steps"]
    return steps
