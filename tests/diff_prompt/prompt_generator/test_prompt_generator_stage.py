"""Stage 2 trains after stage 1, hands its model on, and finds what was computed before."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from actors.drive import fit
from actors.model_run import ModelRun
from system.cli.run import carry_out
from system.data.shards.split_objects import LeftOut
from system.diff_prompt.mask_vae.stage import MaskVaePlan
from system.diff_prompt.prompt_generator.generator_files import HEADER, WEIGHTS, load_generator
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.engine.model_stage import MODEL_STAGES
from system.errors import ConfigError, DataError
from system.storage.feature_store import FeatureStore
from system.storage.run_directory import RunDirectory
from tests.diff_prompt.generator_parts import STAGE, VAE, experiment
from tests.diff_prompt.mask_files import prepare_shapes

EARLIER_SETTINGS = (
    "name",
    "epochs",
    "text_embedding",
    "network",
    "schedule",
    "batch_size",
    "micro_batches",
    "learning_rate",
    "weight_decay",
    "variational_weight",
    "gradient_norm",
    "ema_decay",
    "condition_dropout",
)


def test_the_digest_is_of_what_decides_the_model_and_of_nothing_else(tmp_path: Path) -> None:
    """One that forgets a setting hands out a model that was trained with another."""
    prepare_shapes(tmp_path)
    base = experiment(tmp_path)
    plan = GeneratorPlan.of(base)
    same = replace(base, run_name="other", cluster=replace(base.cluster, workers=2))
    assert GeneratorPlan.of(same).digest == plan.digest
    fixed = experiment(tmp_path, seed=0, mask_vae={**VAE, "seed": 0})
    assert GeneratorPlan.of(replace(fixed, seed=1)).digest == plan.digest
    others = [
        replace(base, seed=1),
        replace(base, benchmark=replace(base.benchmark, tasks=("disk",))),
        experiment(tmp_path, epochs=3),
        experiment(tmp_path, text_embedding="tokens"),
        experiment(tmp_path, mask_vae={**VAE, "epochs": 2}),
        experiment(tmp_path, schedule={"name": "squaredcos_cap_v2", "steps": 40}),
        experiment(tmp_path, latents="sample_unscaled"),
        experiment(tmp_path, condition_scale="raw"),
        experiment(tmp_path, condition_resize="squeeze"),
        experiment(tmp_path, ema_decay=None),
        experiment(tmp_path, name="mask_regressor"),
    ]
    assert len({plan.digest, *(GeneratorPlan.of(other).digest for other in others)}) == 12
    # what a regression has not
    steps, drop = {"name": "squaredcos_cap_v2", "steps": 40}, 0.5
    regressor = experiment(tmp_path, name="mask_regressor", schedule=steps, condition_dropout=drop)
    assert GeneratorPlan.of(regressor).digest == GeneratorPlan.of(others[-1]).digest


def test_a_generator_of_an_earlier_version_is_found(tmp_path: Path) -> None:
    """Settings that came later, at their defaults, must not have days of training repeated."""
    prepare_shapes(tmp_path)
    plan = GeneratorPlan.of(experiment(tmp_path))
    values = asdict(plan.settings)
    assert plan.digest == FeatureStore.key(
        kind="prompt_generator",
        stage={key: values[key] for key in EARLIER_SETTINGS},
        encoder=plan.encoder.fingerprint,
        mask_vae=plan.vae.digest,
        benchmark=plan.manifest.fingerprint,
        tasks=["disk", "square"],
        seed=0,
    )
    judged = ("held_out", "evaluated", "sampling_steps", "guidance")
    assert plan.judged == FeatureStore.key(**{key: values[key] for key in judged})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network": {"width": 64}}, "stage.network.width=128"),
        ({"network": {"width": 128, "patch": 3}}, "patches of 3"),
        ({"mask_vae": {**VAE, "epoch": 2}}, "did you mean"),
    ],
)
def test_parts_that_do_not_fit_are_one_clear_error(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    prepare_shapes(tmp_path)
    with pytest.raises(ConfigError, match=says):
        GeneratorPlan.of(experiment(tmp_path, **change))


def test_a_relative_path_of_the_encoder_reaches_workers_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ray worker has another working directory, and would look for the encoder there."""
    (tmp_path / "my_clip").mkdir()
    monkeypatch.chdir(tmp_path)
    encoder = {"name": "clip", "path": "my_clip"}
    prepare_shapes(tmp_path)
    sent = experiment(tmp_path, encoder=encoder).to_dict()
    assert sent["stage"]["encoder"]["path"] == str(tmp_path / "my_clip")
    assert experiment(tmp_path).stage["encoder"]["path"] == "shipped:tiny_clip"


def test_objects_without_area_are_left_out_and_do_not_end_the_stage(tmp_path: Path) -> None:
    """An empty mask would be learned as one that covers all."""
    prepare_shapes(tmp_path, empty=5, boxless=2)
    run = experiment(tmp_path)
    assert not MODEL_STAGES.get("prompt_generator").finished(run)
    left_out = LeftOut()
    train = GeneratorPlan.of(run).expressions("train", left_out)
    assert [entry.row for entry in train["disk"]] == [0, 1, 3, 4, *range(6, 12)]
    assert left_out.count == 2
    assert len(GeneratorPlan.of(run).vae.masks("train")["disk"]) == 11


def test_a_benchmark_without_masks_is_named_before_stage_1(tmp_path: Path) -> None:
    prepare_shapes(tmp_path, bare=True)
    with pytest.raises(DataError, match=r"'shapes' has no object mask in split 'train'.*refcoco"):
        MODEL_STAGES.get("prompt_generator").finished(experiment(tmp_path))


@pytest.mark.ray
def test_the_stage_trains_after_stage_1_reports_and_is_found_again(
    tmp_path: Path, ray_local: None
) -> None:
    """One command makes both models, and neither twice."""
    prepare_shapes(tmp_path, empty=3)
    run = experiment(tmp_path)
    shown = io.StringIO()
    carry_out(run, Console(file=shown, width=200))
    plan = GeneratorPlan.of(run)
    _, header = load_generator(plan.folder, schedule=plan.settings.schedule)
    assert header.mask_vae == MaskVaePlan.of(run.with_stage(VAE)).digest
    assert header.backbone_fingerprint == plan.encoder.fingerprint
    told = shown.getvalue()
    assert told.index("Mask-VAE: 2 of 2") < told.index("sampling held-out masks: 1 of 1")
    assert "IoU with another sample's expression" in told
    folder = tmp_path / "runs" / "generator"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["iou"]) == {"sampled", "random_caption", "mean_mask", "reconstruction"}
    assert (metrics["train_expressions"], metrics["held_out_expressions"]) == (23, 5)
    assert metrics["left_out"] == {"train": 1, "val": 0}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == len(metrics["shown"]) == 5
    again = io.StringIO()
    carry_out(replace(run, run_name="again"), Console(file=again, width=200))
    assert "there already" in again.getvalue()
    assert not (tmp_path / "runs" / "again-mask_vae").exists()


@pytest.mark.ray
def test_another_way_of_judging_trains_nothing_anew(tmp_path: Path, ray_local: None) -> None:
    """Trying steps or guidance in sampling must not cost the days of a training."""
    prepare_shapes(tmp_path)
    run = experiment(tmp_path, condition_dropout=0.5)
    carry_out(run, Console(quiet=True))
    weights = GeneratorPlan.of(run).folder.read(WEIGHTS)
    guided = replace(
        experiment(tmp_path, condition_dropout=0.5, guidance=3.0, evaluated=4), run_name="guided"
    )
    shown = io.StringIO()
    carry_out(guided, Console(file=shown, width=200))
    assert "prompt generator: " not in shown.getvalue()
    assert GeneratorPlan.of(guided).folder.read(WEIGHTS) == weights
    first, other = (
        json.loads((tmp_path / "runs" / name / "metrics.json").read_text())
        for name in ("generator", "guided")
    )
    assert (other["guidance"], other["held_out_expressions"]) == (3.0, 4)
    assert first["training_log"] == other["training_log"]
    paths = FeatureStore(GeneratorPlan.of(run).folder)
    plain, drawn = (paths.find(f"shown-{GeneratorPlan.of(each).judged}") for each in (run, guided))
    assert plain is not None
    assert drawn is not None
    assert len(drawn["paths"]) == 4
    assert not torch.equal(plain["paths"][0], drawn["paths"][0])


@pytest.mark.ray
def test_embeddings_and_latents_are_computed_once_for_all_runs(
    tmp_path: Path, ray_local: None
) -> None:
    prepare_shapes(tmp_path)
    carry_out(experiment(tmp_path), Console(quiet=True))

    def parts() -> dict[Path, int]:
        kept = [*tmp_path.glob("embeddings/*/*"), *tmp_path.glob("latents/*/*")]
        return {path: path.stat().st_mtime_ns for path in kept}

    before = parts()
    # of 2 tasks and 2 splits: images, expressions, masks
    assert len(before) == 12
    other = replace(experiment(tmp_path, epochs=1), run_name="other")
    carry_out(other, Console(quiet=True))
    assert parts() == before


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_the_same_generator_as_one(tmp_path: Path, ray_local: None) -> None:
    """A figure that depends on the cluster cannot be compared."""
    prepare_shapes(tmp_path)
    alone = experiment(tmp_path)
    carry_out(alone, Console(quiet=True))
    folder = GeneratorPlan.of(alone).folder
    first, _ = load_generator(folder)
    figures = f"outcome-{GeneratorPlan.of(alone).judged}.json"
    outcome = folder.read(figures)
    folder.delete(HEADER)
    pair = replace(experiment(tmp_path, workers=2), run_name="pair")
    fit(ModelRun(pair))
    second, _ = load_generator(folder)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert folder.read(figures) == outcome
    assert len(RunDirectory.of(pair).logs.names()) == 2
    assert STAGE["epochs"] == 2
