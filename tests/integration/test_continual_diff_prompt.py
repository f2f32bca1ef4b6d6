"""Diff-Prompt in the stream by one command: the generator once, then every task."""

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
from system.stream.preflight import check_experiment
from tests.diff_prompt.generator_parts import STAGE
from tests.integration.small_rec_stream import prepare_small_rec, rec_overrides
from tests.integration.small_stream import adapters, figures

METHOD = {
    "name": "lpi_diff_prompt",
    "generator": STAGE | {"seed": 0},
    "prompt_length": 2,
    "depth": 2,
    "steps": 5,
    "low_rank": {"prompt_length": 2},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("joined")
    prepare_small_rec(root)
    return root


def experiment(root: Path, name: str, **method: Any) -> ExperimentConfig:
    run = compose(rec_overrides(root, name, "cluster.workers=0", "stage.epochs=1"))
    return replace(run, method=METHOD | method)


def test_the_join_composes_with_the_shipped_settings() -> None:
    run = compose(["experiment=continual_diff_prompt"])
    assert run.method["name"] == "lpi_diff_prompt"
    assert run.stage.objective == "grounding"
    assert run.method["generator"]["name"] == "prompt_generator"


@pytest.mark.ray
def test_one_command_trains_the_generator_once_and_learns_the_stream(
    root: Path, ray_local: None
) -> None:
    """A second run finds the generator, and gives the same bits."""
    shown = io.StringIO()
    carry_out(experiment(root, "first"), Console(file=shown, width=200))
    told = shown.getvalue()
    assert "runs/first-prompt_generator-mask_vae" in told
    metrics = json.loads((root / "runs" / "first" / "metrics.json").read_text())
    assert metrics["replayed_rows"] == 0
    assert metrics["method"] == "lpi_diff_prompt"
    assert {name.split(".")[1] for name in adapters(root, "first")[0] if "method" in name} == {
        "instance",
        "task",
    }
    again = io.StringIO()
    carry_out(experiment(root, "second"), Console(file=again, width=200))
    assert "the model is there already" in again.getvalue()
    assert adapters(root, "second") == adapters(root, "first")
    assert figures(root, "second") == figures(root, "first")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 9}, "layers"),
        ({"steps": 2}, "at least 3"),
        ({"steps": 8}, r"method\.steps=8 must divide .*schedule\.steps=20"),
        ({"generator": STAGE | {"name": "mask_vae"}}, "makes no latents"),
        ({"generator": {}}, "method.generator"),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_stage(
    root: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        check_experiment(experiment(root, "wrong", **change))
