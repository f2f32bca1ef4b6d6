"""The controls of Diff-Prompt's masks say what they claim to say, of the right samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from system.data.shards.manifest import SplitHandle
from system.data.shards.split_objects import read_expressions
from system.diff_prompt.latent_source import LatentSource
from system.diff_prompt.mask_regressor.regression import regressed
from system.diff_prompt.mask_sources import one_cycle
from system.diff_prompt.mask_vae.object_pixels import object_pixels
from system.diff_prompt.prompt_generator.generator_files import save_generator
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.diff_prompt.prompt_generator.stage import STAGE as GENERATOR
from system.diff_prompt.prompt_latents import SplitLatents
from system.engine.model_stage import show_nothing
from system.errors import ConfigError, DataError
from system.methods.base import MaskSource
from tests.diff_prompt.generator_parts import ALONE
from tests.diff_prompt.mask_files import prepare_shapes
from tests.diff_prompt.prompt_generator.test_latent_store import NEEDS, trained_plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> GeneratorPlan:
    return trained_plan(tmp_path_factory.mktemp("sources"))


def handle(plan: GeneratorPlan, split: str = "train") -> SplitHandle:
    return plan.manifest.task("disk").handle(split)


def latents(plan: GeneratorPlan, source: MaskSource, split: str = "train") -> SplitLatents:
    made = LatentSource(plan.experiment, GENERATOR)
    needs = replace(NEEDS, source=source)
    made.check(needs)
    return made.latents(needs, ALONE, show_nothing).of(handle(plan, split))


def test_true_latents_are_of_each_expressions_own_mask(plan: GeneratorPlan) -> None:
    """An upper bound whose samples were mixed up would bound nothing."""
    for split in ("train", "test"):
        expressions = list(read_expressions(handle(plan, split)))
        found = latents(plan, "true", split).take([2, 0], epoch=3)
        pixels = object_pixels(plan.vae.settings.vae, (expressions[i].mask for i in (2, 0)))
        expected = plan.decoder.encode(pixels)
        assert found.shape == (2, NEEDS.layers, *expected.shape[1:])
        for layer in range(NEEDS.layers):
            torch.testing.assert_close(found[:, layer], expected, rtol=1e-3, atol=1e-5)


def test_an_expression_without_mask_has_the_latent_of_an_empty_one(tmp_path: Path) -> None:
    """It would get another expression's mask, or end the run after hours."""
    plan = trained_plan(tmp_path)
    whole = latents(plan, "true").take([4, 5], epoch=0)
    prepare_shapes(tmp_path / "gap", empty=4)
    gap = trained_plan(tmp_path / "gap", empty=4)
    found = latents(gap, "true").take([4, 5], epoch=0)
    torch.testing.assert_close(found[1], whole[1], rtol=1e-3, atol=1e-5)
    empty = torch.full((1, 1, 16, 16), -1.0)
    torch.testing.assert_close(found[0, 0], plan.decoder.encode(empty)[0])


def test_shuffled_latents_are_what_was_drawn_for_another(plan: GeneratorPlan) -> None:
    every = latents(plan, "generated").take(range(12), epoch=0)
    shuffled = latents(plan, "shuffled").take(range(12), epoch=0)
    came_from = [
        next(i for i in range(12) if torch.allclose(every[i], row, atol=1e-6)) for row in shuffled
    ]
    assert sorted(came_from) == list(range(12))
    assert all(own != other for own, other in enumerate(came_from))
    again = latents(plan, "shuffled").take([3], epoch=1)
    assert torch.equal(again[0], shuffled[3])
    others = {tuple(one_cycle(12, [seed, 5])) for seed in range(4)}
    assert len(others) == 4


def test_only_the_others_that_are_needed_are_drawn(plan: GeneratorPlan) -> None:
    """A subsample of the split is often a hundredth of it."""
    made = LatentSource(plan.experiment, GENERATOR)
    found = made.latents(replace(NEEDS, source="shuffled"), ALONE, show_nothing)
    few = found.of(handle(plan, "val"), [0, 2]).take([2, 0], epoch=0)
    assert few.shape[0] == 2
    assert found.steps_run == 2 * NEEDS.steps


@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_cycle_moves_every_place(count: int) -> None:
    for seed in range(20):
        order = one_cycle(count, [seed])
        assert sorted(order) == list(range(count))
        assert all(place != other for place, other in enumerate(order))


def test_the_mean_is_the_same_for_all_and_says_where_most_masks_are(plan: GeneratorPlan) -> None:
    found = latents(plan, "mean").take([0, 5, 11], epoch=0)
    assert torch.equal(found[0], found[2])
    assert found.shape[:2] == (3, NEEDS.layers)
    true = latents(plan, "true").take(range(12), epoch=0)
    assert not torch.allclose(found[0], true[0])


def test_regressed_latents_are_of_the_samples_conditions_and_of_nothing_drawn(
    plan: GeneratorPlan,
) -> None:
    made = LatentSource(plan.experiment, GENERATOR)
    needs = replace(NEEDS, source="regressed")
    (regressor,) = made.models(needs)
    own = GeneratorPlan.of(regressor)
    network = MaskDiT(own.network, seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            draw = torch.Generator().manual_seed(parameter.numel())
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    save_generator(own.folder, network, own.header(24, ()))
    found = made.latents(needs, ALONE, show_nothing)
    first = found.of(handle(plan)).take([0, 1], epoch=0)
    assert first.shape == (2, NEEDS.layers, 4, 8, 8)
    assert torch.equal(first[:, 0], first[:, 1])
    assert not torch.allclose(first[0], first[1])  # another image
    assert found.steps_run == 0
    conditions = own.condition_encoder(ALONE, show_nothing).of(
        handle(plan), list(read_expressions(handle(plan)))
    )
    with torch.no_grad():
        expected = regressed(network, *conditions.take([0, 1]))
    torch.testing.assert_close(first[:, 0], expected, rtol=1e-3, atol=1e-5)


def test_each_source_asks_for_the_models_that_it_takes(plan: GeneratorPlan) -> None:
    """One that asks for less ends in an error on the worker, for more in days of training."""
    made = LatentSource(plan.experiment, GENERATOR)
    sources: tuple[MaskSource, ...] = ("generated", "shuffled", "true", "mean", "regressed")
    names = {
        source: [run.stage["name"] for run in made.models(replace(NEEDS, source=source))]
        for source in sources
    }
    assert names == {
        "generated": ["prompt_generator"],
        "shuffled": ["prompt_generator"],
        "true": ["mask_vae"],
        "mean": ["mask_vae"],
        "regressed": ["mask_regressor"],
    }


def test_what_a_source_cannot_do_is_said_before_anything_starts(
    plan: GeneratorPlan, tmp_path: Path
) -> None:
    made = LatentSource(plan.experiment, GENERATOR)
    with pytest.raises(ConfigError, match=r"mask_source=true draws nothing"):
        made.check(replace(NEEDS, source="true", fresh_noise=True))
    bare = trained_plan(tmp_path, bare=True)
    with pytest.raises(DataError, match="has no referring expression to a mask"):
        LatentSource(bare.experiment, GENERATOR).check(replace(NEEDS, source="mean"))
