"""Stage 1 trains, resumes to the bit, hands its model on, and finds it again."""

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
from system.cli.report import report_model
from system.cli.run import carry_out
from system.config.compose import composed_values
from system.config.parse import parse_dataclass
from system.data.shards.schema import Mask
from system.data.shards.split_objects import mask_pixels
from system.diff_prompt.mask_vae.mask_vae_files import (
    HEADER,
    MaskVaeHeader,
    load_mask_vae,
    save_mask_vae,
)
from system.diff_prompt.mask_vae.mask_vae_network import RANGES, MaskVaeConfig, build_mask_vae
from system.diff_prompt.mask_vae.mask_vae_training import (
    MaskVaeSettings,
    MaskVaeTraining,
    check_batch,
    reconstruct,
    reconstruction_ious,
)
from system.diff_prompt.mask_vae.object_pixels import object_pixels
from system.diff_prompt.mask_vae.stage import GRID, MaskVaePlan, MaskVaeStage
from system.engine.epochs import DivergedError, EpochLoop
from system.engine.model_stage import MODEL_STAGES, ModelExperiment
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, DataError, StorageError
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.storage.run_directory import RunDirectory
from tests.diff_prompt.mask_files import SIDE, compressed, prepare_shapes, shape

SIZES = MaskVaeConfig(image_size=SIDE, channels=(8, 16), latent_channels=4, norm_groups=4)
SETTINGS = MaskVaeSettings("mask_vae", SIZES, epochs=3, batch_size=8)
ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))


def masks(count: int) -> list[Mask]:
    return [compressed(shape("disk", index)) for index in range(count)]


def training(settings: MaskVaeSettings = SETTINGS, count: int = 20) -> MaskVaeTraining:
    return MaskVaeTraining(settings, masks(count), ALONE, seed=5, digest="d")


def experiment(root: Path, **stage: Any) -> ModelExperiment:
    values = {
        "name": "mask_vae",
        "vae": {
            "image_size": SIDE,
            "channels": [8, 16],
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_groups": 4,
        },
        "epochs": 2,
        "batch_size": 8,
    }
    return ModelExperiment.from_values(
        {
            "run_name": "vae",
            "storage_path": str(root / "runs"),
            "data_path": str(root),
            "seed": 0,
            "benchmark": {"name": "shapes", "dataset": "coco", "options": {}},
            "stage": values | stage,
            "cluster": {
                "address": None,
                "workers": 0,
                "cpus_per_worker": 1,
                "gpu": False,
                "max_failures": 0,
            },
            "method": {"name": "lpi"},  # a section of other runs
        }
    )


def test_the_loss_falls_and_the_rate_decays(tmp_path: Path) -> None:
    """A rate that never falls ends in a loss that jumps between the last epochs."""
    learner = training()
    log = EpochLoop(learner, Folder.of(tmp_path)).run()
    assert log[2]["loss"] < log[0]["loss"]
    (group,) = learner.optimiser.param_groups
    assert group["lr"] == pytest.approx(5e-3 * 0.95**2)


def test_workers_iou_is_each_masks_own() -> None:
    """A block that is filled or dealt out wrongly would give figures of other masks."""
    learner, many = training(), masks(70)
    together = reconstruction_ious(learner.vae, many, SIZES, ALONE)
    last = reconstruction_ious(learner.vae, many[-1:], SIZES, ALONE)
    assert len(together) == 70
    assert float(together[-1]) == pytest.approx(float(last[0]))


@pytest.mark.parametrize(
    ("workers", "count", "error", "says"),
    [(3, 20, ConfigError, "batch_size=8"), (1, 5, DataError, "5 object masks")],
)
def test_a_batch_that_cannot_be_filled_is_refused(
    workers: int, count: int, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        check_batch(SETTINGS, workers, count)


def test_stage_2_sees_latents_of_the_wanted_deviation() -> None:
    """It is what its noise is measured against."""
    begun = training(replace(SETTINGS, latent_std=0.5))
    pixels = torch.stack([mask_pixels(mask, SIDE) for mask in begun.masks])
    latents = begun.vae.encode(pixels).latent_dist.mode() * begun.latent_scale()
    assert float(latents.std()) == pytest.approx(0.5, rel=1e-5)


def test_the_digest_is_of_what_decides_the_model_and_of_nothing_else(tmp_path: Path) -> None:
    """One that forgets a setting hands out a model that was trained with another."""
    prepare_shapes(tmp_path)
    base = experiment(tmp_path)
    plan = MaskVaePlan.of(base)
    same = replace(base, run_name="other", cluster=replace(base.cluster, workers=2))
    assert MaskVaePlan.of(same).digest == plan.digest
    others = [
        replace(base, seed=1),
        replace(base, benchmark=replace(base.benchmark, tasks=("disk",))),
        experiment(tmp_path, epochs=3),
        experiment(tmp_path, kl_weight=0.0),
        experiment(tmp_path, latent_std=0.5),
        experiment(tmp_path, vae=asdict(replace(SIZES, mask_range=(0, 1)))),
    ]
    assert len({plan.digest, *(MaskVaePlan.of(other).digest for other in others)}) == 7


def test_a_mask_vae_of_an_earlier_version_is_found(tmp_path: Path) -> None:
    """Settings that came later, at their defaults, must not have a training repeated."""
    prepare_shapes(tmp_path)
    plan = MaskVaePlan.of(experiment(tmp_path))
    stage = {
        "name": "mask_vae",
        "vae": {
            "image_size": SIDE,
            "channels": (8, 16),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_groups": 4,
        },
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "decay": 0.95,
        "kl_weight": 0.00037732,
        "latent_std": 1.0,
        "held_out": "val",
    }
    assert plan.digest == FeatureStore.key(
        kind="mask_vae",
        stage=stage,
        benchmark=plan.manifest.fingerprint,
        tasks=["disk", "square"],
        seed=0,
    )


@pytest.mark.parametrize("mask_range", RANGES)
def test_masks_of_either_range_are_learned(tmp_path: Path, mask_range: tuple[int, int]) -> None:
    """One that is judged by the other range's threshold seems to cover all, or nothing."""
    learner = training(replace(SETTINGS, vae=replace(SIZES, mask_range=mask_range), epochs=40))
    EpochLoop(learner, Folder.of(tmp_path)).run()
    sizes = learner.settings.vae
    assert float(reconstruction_ious(learner.vae, masks(20), sizes, ALONE).mean()) > 0.6
    restored = reconstruct(learner.vae, object_pixels(sizes, masks(8)))
    outside, inside = restored.flatten().quantile(torch.tensor([0.2, 0.95])).tolist()
    low, high = mask_range
    assert (outside, inside) == pytest.approx((low, high), abs=0.4)


def test_the_released_rate_falls_by_a_twentieth_in_each_of_200_epochs() -> None:
    values = composed_values(["stage=mask_vae_released"])["stage"]
    settings = parse_dataclass(MaskVaeSettings, values, "config.stage")
    rate, decay = settings.learning_rate, settings.decay
    learner = training(replace(SETTINGS, decay=decay, learning_rate=rate))
    rates = []
    for epoch in (0, 1, settings.epochs - 1):
        learner.set_rate(epoch, 0, 1)
        rates.append(learner.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.005, 0.00475, 0.005 * 0.95**199])
    assert isinstance(learner.optimiser, torch.optim.Adam)


def test_a_given_mask_vae_stands_for_one_that_is_trained(tmp_path: Path) -> None:
    """Its sizes and its digest are its own; a config that says otherwise would describe another."""
    prepare_shapes(tmp_path)
    header = MaskVaeHeader("own", SIZES, "", "", 0, 0, 0, None, {}, 1.0, 1, ())
    given = Folder.of(tmp_path / "given")
    with pytest.raises(StorageError, match=r"mask_vae\.path=.*promptide import mask_vae"):
        MaskVaePlan.of(experiment(tmp_path, path=given.uri))
    save_mask_vae(given, build_mask_vae(SIZES, 0), header)
    plan = MaskVaePlan.of(experiment(tmp_path, path=given.uri))
    assert (plan.digest, plan.folder.uri) == ("own", given.uri)
    assert plan.decoder(scaled=True)(torch.zeros(1, 4, 8, 8)).shape == (1, 1, SIDE, SIDE)
    wrong = asdict(replace(SIZES, layers_per_block=2, mask_range=(0, 1)))
    with pytest.raises(ConfigError, match=r"vae\.layers_per_block=1 \(not 2\).*mask_range"):
        MaskVaePlan.of(experiment(tmp_path, path=given.uri, vae=wrong))
    with pytest.raises(ConfigError, match=r"set stage\.path=null"):
        MaskVaeStage().finished(experiment(tmp_path, path=given.uri))


def test_a_benchmark_without_masks_is_one_clear_error(tmp_path: Path) -> None:
    """Before anything is trained, and with where masks can come from."""
    prepare_shapes(tmp_path, bare=True)
    with pytest.raises(DataError, match=r"has no object mask.*any of the tasks.*refcoco"):
        MaskVaeStage().finished(experiment(tmp_path))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epoch": 3}, "epoch"),
        ({"held_out": "train"}, "held_out"),
        ({"latent_std": 0.0}, "latent_std=0.0 must be above 0"),
        ({"vae": {"image_size": 15, "channels": [8, 16]}}, "image_size=15"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    prepare_shapes(tmp_path)
    with pytest.raises(ConfigError, match=named):
        MaskVaePlan.of(experiment(tmp_path, **change))


def test_a_benchmark_that_is_not_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="promptide prepare"):
        MaskVaeStage().finished(experiment(tmp_path))


@pytest.mark.ray
def test_a_run_goes_on_from_its_last_epoch(tmp_path: Path, ray_local: None) -> None:
    """What a killed run had learned must not be learned again, and the figures must not change."""
    prepare_shapes(tmp_path)
    whole, killed = experiment(tmp_path, epochs=3), experiment(tmp_path, epochs=3)
    killed = replace(killed, run_name="killed")
    plan = MaskVaePlan.of(killed)
    begun = MaskVaeTraining(
        plan.settings,
        [mask for task in plan.masks("train").values() for mask in task],
        ALONE,
        seed=killed.seed,
        digest=plan.digest,
    )
    torch.set_num_threads(1)  # as the worker does: sums depend on it
    folder = RunDirectory.of(killed).folder
    loop = EpochLoop(begun, folder)
    loop.epoch()
    loop.save()
    fit(ModelRun(killed))
    resumed, _ = load_mask_vae(plan.folder)
    assert b"going on after 1 epochs" in folder.child("logs").read("rank-0-start-0.log")
    plan.folder.delete(HEADER)
    fit(ModelRun(whole))
    straight, _ = load_mask_vae(plan.folder)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.ray
def test_the_stage_trains_reports_and_is_found_again(tmp_path: Path, ray_local: None) -> None:
    """The model must be there for the next stage, and not be made twice."""
    prepare_shapes(tmp_path, empty=3)
    run = experiment(tmp_path)
    stage = MODEL_STAGES.get("mask_vae")
    assert not stage.finished(run)
    fit(ModelRun(run))
    assert stage.finished(run)
    assert stage.finished(replace(run, run_name="again"))
    told: list[str] = []
    stage.report(run, told.append)
    folder = tmp_path / "runs" / "vae"
    metrics = json.loads((folder / "metrics.json").read_text())
    vae, header = load_mask_vae(MaskVaePlan.of(run).folder)
    assert metrics["held_out_iou"] == header.held_out_iou
    assert set(header.held_out_iou_per_task) == {"disk", "square"}
    assert (header.train_masks, header.held_out_masks, len(header.log)) == (23, 6, 2)
    assert metrics["left_out"] == {"train": 1, "val": 0}
    log = (folder / "logs" / "rank-0-start-0.log").read_text()
    assert "masks: left out 1 without area: task 'disk', split 'train', 3.png: instance 0" in log
    assert vae.config.scaling_factor == header.latent_scale > 0
    assert (folder / GRID).read_bytes().startswith(b"\x89PNG")
    assert "Reconstruction IoU" in (folder / "report.html").read_text()
    assert any("reconstruction IoU" in line for line in told)


@pytest.mark.ray
def test_a_run_by_command_is_watched_reported_again_and_not_made_twice(
    tmp_path: Path, ray_local: None
) -> None:
    """A training without a sign of life looks hung; a page must not need a training."""
    prepare_shapes(tmp_path)
    run = experiment(tmp_path)
    with pytest.raises(ConfigError, match="not trained yet"):
        report_model(run, Console(quiet=True))
    shown = io.StringIO()
    carry_out(run, Console(file=shown, width=200))
    assert "Mask-VAE: 6 of 6, loss 0." in shown.getvalue()
    page = tmp_path / "runs" / "vae" / "report.html"
    page.unlink()
    report_model(run, Console(quiet=True))
    assert page.exists()
    again = io.StringIO()
    carry_out(run, Console(file=again, width=200))
    assert "there already" in again.getvalue()
    assert "Mask-VAE:" not in again.getvalue()


@pytest.mark.ray
@pytest.mark.slow
def test_a_diverged_loss_is_not_tried_again(tmp_path: Path, ray_local: None) -> None:
    """It would diverge again, and a user would wait for the same end four times."""
    prepare_shapes(tmp_path)
    run = experiment(tmp_path, learning_rate=1e30)
    run = replace(run, cluster=replace(run.cluster, workers=1, max_failures=3))
    with pytest.raises(DivergedError, match="learning_rate"):
        carry_out(run, Console(quiet=True))
    logs = RunDirectory.of(run).logs.names()
    assert len(logs) == 1, "tried again"
    assert b"DivergedError" in RunDirectory.of(run).logs.read(logs[0])
