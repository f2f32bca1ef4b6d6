"""Prompt latents: drawn once, the same for every batch, run and trial; a mismatch is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from system.data.shards.manifest import SplitHandle
from system.diff_prompt.mask_vae.mask_vae_files import MaskVaeHeader, load_mask_vae, save_mask_vae
from system.diff_prompt.mask_vae.mask_vae_network import build_mask_vae
from system.diff_prompt.prompt_generator.generator_data import GeneratorData
from system.diff_prompt.prompt_generator.generator_files import save_generator
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.latent_store import LatentStore
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.diff_prompt.prompt_generator.noise import NoiseSchedule
from system.engine.model_stage import ModelExperiment, show_nothing
from system.errors import AdapterMismatchError, ConfigError, StorageError
from system.methods.base import LatentNeeds
from system.storage.files import Folder
from tests.diff_prompt.generator_parts import ALONE, STAGE, experiment
from tests.diff_prompt.mask_files import SIDE, prepare_shapes

NEEDS = LatentNeeds(STAGE, layers=2, steps=5, stride=2, guidance=1.0, fresh_noise=False)


def trained_plan(root: Path, run: ModelExperiment | None = None, **shapes: Any) -> GeneratorPlan:
    """Both models are there, with weights as drawn: a generator draws with any."""
    prepare_shapes(root, **shapes)
    plan = GeneratorPlan.of(run or experiment(root))
    vae = MaskVaeHeader(
        plan.vae.digest, plan.vae.settings.vae, "shapes", "", 0, 1, 1, 0.5, {}, 1.0, 1, ()
    )
    save_mask_vae(plan.vae.folder, build_mask_vae(vae.vae, 0), vae)
    network = MaskDiT(plan.network, seed=0)
    with torch.no_grad():  # its output starts at zero, and so would not depend on anything
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=_draw(parameter)))
    save_generator(plan.folder, network, plan.header(24, ()))
    return plan


def copied(source: Folder, target: Folder) -> None:
    """Put a folder's files into another one."""
    for name in source.names():
        target.write(name, source.read(name))


def _draw(parameter: torch.Tensor) -> torch.Generator:
    return torch.Generator().manual_seed(parameter.numel())


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> GeneratorPlan:
    return trained_plan(tmp_path_factory.mktemp("latents"))


def store(plan: GeneratorPlan, needs: LatentNeeds = NEEDS) -> LatentStore:
    return LatentStore(plan, needs, ALONE, show_nothing)


def handle(plan: GeneratorPlan, task: str = "disk", split: str = "train") -> SplitHandle:
    return plan.manifest.task(task).handle(split)


def test_no_step_is_run_twice(plan: GeneratorPlan) -> None:
    """Every epoch and trial would otherwise pay for the diffusion again."""
    first = store(plan)
    latents = first.of(handle(plan)).take(range(12), epoch=0)
    assert latents.shape == (12, 2, 4, 8, 8)
    assert first.steps_run == 12 * 5
    assert torch.equal(first.of(handle(plan)).take(range(12), epoch=1), latents)
    assert first.steps_run == 12 * 5
    trial = store(plan)
    assert torch.equal(trial.of(handle(plan)).take(range(12), epoch=0), latents)
    assert trial.steps_run == 0


def test_a_samples_latents_do_not_depend_on_the_batch(plan: GeneratorPlan) -> None:
    latents = store(plan).of(handle(plan)).take(range(12), epoch=0)
    some = store(plan).of(handle(plan)).take([7, 2], epoch=0)
    assert torch.equal(some, latents[[7, 2]])
    assert not torch.allclose(latents[7], latents[2])


def test_only_the_samples_that_are_used_are_drawn(plan: GeneratorPlan) -> None:
    """A method that learns from a few expressions would wait for the whole split."""
    few = store(plan)
    latents = few.of(handle(plan, "square"), [1, 7]).take([7, 1], epoch=0)
    assert few.steps_run == 2 * 5
    every = store(plan).of(handle(plan, "square")).take([7, 1], epoch=0)
    torch.testing.assert_close(latents, every)


def test_layers_take_the_path_backwards_from_its_end(plan: GeneratorPlan) -> None:
    """As published: the first prompt layer gets the cleanest latent."""
    three = store(plan, replace(NEEDS, layers=3)).of(handle(plan)).take([0], epoch=0)
    one = store(plan, replace(NEEDS, layers=1)).of(handle(plan)).take([0], epoch=0)
    torch.testing.assert_close(three[:, :1], one)
    every = store(plan, replace(NEEDS, layers=5, stride=1)).of(handle(plan)).take([0], epoch=0)
    torch.testing.assert_close(every[:, [0, 2, 4]], three)


def test_another_schedule_draws_other_latents_and_has_to_be_declared(tmp_path: Path) -> None:
    """As released it is trained with one and sampled with the other; nobody should by accident."""
    run = experiment(tmp_path, schedule={"name": "squaredcos_cap_v2", "steps": 40})
    own = trained_plan(tmp_path, run)
    plain = store(own).of(handle(own)).take([0], epoch=0)
    declared = replace(own, settings=replace(own.settings, sampling_schedule="linear"))
    assert declared.digest == own.digest  # the same weights, judged apart
    assert declared.judged != own.judged
    drawn = store(declared).of(handle(own)).take([0], epoch=0)
    assert drawn.isfinite().all()
    assert not torch.allclose(drawn, plain)
    linear = replace(own.settings, schedule=NoiseSchedule("linear", 40))
    header = own.folder.read_json("generator.json")
    other = replace(own, settings=linear)
    copied(own.folder, other.folder)
    assert header["schedule"]["name"] == "squaredcos_cap_v2"
    with pytest.raises(AdapterMismatchError, match="sampling_schedule"):
        store(other)


def test_unscaled_latents_are_decoded_as_they_are(tmp_path: Path) -> None:
    """Divided by the scale of stage 1 they would be another mask's."""
    plan = trained_plan(tmp_path)
    unscaled = replace(plan, settings=replace(plan.settings, latents="sample_unscaled"))
    vae, old = load_mask_vae(plan.vae.folder)
    save_mask_vae(plan.vae.folder, vae, replace(old, latent_scale=3.0))
    pixels = torch.ones(1, 1, SIDE, SIDE)
    scaled, raw = (each.decoder.encode(pixels) for each in (plan, unscaled))
    torch.testing.assert_close(scaled, 3 * raw)
    torch.testing.assert_close(plan.decoder(scaled), unscaled.decoder(raw))
    found = [
        GeneratorData(each, each.decoder, ALONE, show_nothing).samples("val")[0]
        for each in (plan, unscaled)
    ]
    torch.testing.assert_close(found[0].latents, 3 * found[1].latents)
    assert found[0].deviations is None
    assert found[1].deviations is not None
    assert found[1].deviations.shape == found[1].latents.shape
    assert (found[1].deviations > 0).all()


def test_splits_and_seeds_have_noise_of_their_own(plan: GeneratorPlan) -> None:
    train = store(plan).of(handle(plan)).take([0], epoch=0)
    test = store(plan).of(handle(plan, split="test")).take([0], epoch=0)
    assert not torch.allclose(train, test)


def test_fresh_noise_draws_in_each_epoch_and_keeps_nothing(tmp_path: Path) -> None:
    plan = trained_plan(tmp_path)
    fresh = store(plan, replace(NEEDS, fresh_noise=True))
    split = fresh.of(handle(plan))
    first = split.take([3, 1], epoch=0)
    assert torch.equal(split.take([3, 1], epoch=0), first)
    assert not torch.allclose(split.take([3, 1], epoch=1), first)
    assert fresh.steps_run == 3 * 2 * 5
    assert not list((tmp_path / "latents").glob("prompts-*"))


def test_a_generator_that_is_not_trained_is_named(tmp_path: Path) -> None:
    prepare_shapes(tmp_path)
    with pytest.raises(StorageError, match="train a generator"):
        store(GeneratorPlan.of(experiment(tmp_path)))


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    plan = trained_plan(tmp_path)
    with pytest.raises(ConfigError, match="at least 7"):
        store(plan, replace(NEEDS, layers=4))
    with pytest.raises(AdapterMismatchError, match="condition_dropout"):
        store(plan, replace(NEEDS, guidance=2.0))
    header = plan.folder.read_json("generator.json")
    plan.folder.write_json("generator.json", {**header, "mask_vae": "another"})
    with pytest.raises(AdapterMismatchError, match="another"):
        store(plan)
    schedule = {"name": "linear", "steps": 30}
    plan.folder.write_json("generator.json", {**header, "schedule": schedule})
    with pytest.raises(AdapterMismatchError, match="linear"):
        store(plan)
