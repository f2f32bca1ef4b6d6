"""The plan of a model's training is what its run does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.drive import fit
from actors.model_run import ModelRun
from system.engine.model_stage import ModelExperiment
from system.errors import ConfigError
from system.planning.stage_work import generator_work, mask_vae_work, stage_work
from tests.diff_prompt.generator_parts import STAGE, VAE, experiment
from tests.diff_prompt.mask_files import prepare_shapes
from tests.planning.counters import count_generator
from tests.planning.test_stream_work import require_planned


def trained(run: ModelExperiment) -> dict[str, object]:
    """Train a stage in this process, and report; its metrics."""
    made = ModelRun(run)
    fit(made)
    made.stage.report(run, lambda _: None)
    found: dict[str, object] = json.loads(
        (Path(run.storage_path) / run.run_name / "metrics.json").read_text()
    )
    return found


def test_both_stages_are_as_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With guidance each step of a held-out sample asks the network twice."""
    prepare_shapes(tmp_path)
    generator = experiment(tmp_path, condition_dropout=0.1, guidance=2.0)
    vae = replace(generator, run_name="vae", stage=VAE)
    planned = stage_work(vae)
    assert planned == mask_vae_work(vae)
    metrics = trained(vae)
    log = metrics["training_log"]
    assert isinstance(log, list)
    assert planned.steps == sum(row["steps"] for row in log) > 0
    judged = {p.part: p.most for p in planned.passes if p.mode == "plain"}
    assert judged["Mask-VAE"] == metrics["held_out_masks"]

    work = stage_work(generator)
    assert work == generator_work(generator)
    found = count_generator(monkeypatch)
    metrics = trained(generator)
    log = metrics["training_log"]
    assert isinstance(log, list)
    assert work.steps == sum(row["steps"] for row in log) > 0
    encoded = {"image tower": "condition encoder, image", "text tower": "condition encoder, text"}
    renamed = {(encoded.get(part, part), mode): count for (part, mode), count in found.items()}
    own = [p for p in work.passes if not p.part.startswith("Mask-VAE")]
    require_planned(replace(work, passes=tuple(own)), type(found)(renamed))


def test_a_stage_that_is_not_known_is_refused(tmp_path: Path) -> None:
    prepare_shapes(tmp_path)
    with pytest.raises(ConfigError, match=r"'mask_dit'"):
        stage_work(replace(experiment(tmp_path), stage={**STAGE, "name": "mask_dit"}))
