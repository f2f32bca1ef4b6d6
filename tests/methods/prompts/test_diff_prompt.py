"""Prompts of Diff-Prompt: of the right latents, in the right layers, and only they learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import nn

from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig, build_mask_vae
from system.errors import ConfigError
from system.grounders.grounder import Grounder, GrounderShape, GroundingBatch
from system.grounders.tokens import Tokens
from system.methods.base import GroundingSetting, build_task_method
from system.methods.prompts.diff_prompt import (
    DiffPrompt,
    DiffPromptConfig,
    PromptAdapter,
    PromptAdapterConfig,
    prompt_steps,
)

SHAPE = GrounderShape((6, 6, 12, 12), (8, 8, 8), (6, 12), 16, 10, 12)
NOTHING = cast(Grounder, None)  # the method asks the grounder for nothing
TOKENS = Tokens(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3))
BATCH = GroundingBatch(torch.zeros(2, 3, 16, 16), TOKENS)
CONFIG = DiffPromptConfig(generator={}, prompt_length=4, depth=3, steps=5)


@pytest.fixture(scope="module")
def masks() -> MaskDecoder:
    sizes = MaskVaeConfig(16, (4, 8), 2)
    return MaskDecoder(sizes, "d", lambda: (build_mask_vae(sizes, seed=0), 0.5))


def method(masks: MaskDecoder | None, config: DiffPromptConfig = CONFIG) -> DiffPrompt:
    return DiffPrompt(config, GroundingSetting(SHAPE, seed=1, masks=masks))


def latents() -> torch.Tensor:
    return torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_each_layers_prompt_comes_from_its_own_latent(masks: MaskDecoder) -> None:
    """Layers that all saw one mask would waste the path that the method is named after."""
    learner, path = method(masks), latents()
    before = learner.entries(NOTHING, BATCH, path)
    assert [tuple(p.shape) for p in before.vision] == [(2, 4, 6), (2, 4, 6), (2, 4, 12)]
    assert [tuple(p.shape) for p in before.text] == [(2, 4, 8)] * 3
    path[0, 1] += 1.0  # sample 0, layer 1
    after = learner.entries(NOTHING, BATCH, path)
    for old, new in ((before.vision, after.vision), (before.text, after.text)):
        changed = [not torch.allclose(a, b) for a, b in zip(old, new, strict=True)]
        assert changed == [False, True, False]
        torch.testing.assert_close(old[1][1], new[1][1])  # the other sample's


def test_a_prompt_is_the_adapted_mask_and_then_the_global_half(masks: MaskDecoder) -> None:
    learner, path = method(masks), latents()
    prompt = learner.entries(NOTHING, BATCH, path).vision[2]
    adapter = cast(Any, learner.vision[1])  # the second width's, whose first layer this is
    torch.testing.assert_close(prompt, adapter(masks(path[:, 2]), 0))
    torch.testing.assert_close(prompt[1, 2:], adapter.general(0)[0])


@pytest.mark.parametrize("norm", ["none", "block"])
@pytest.mark.parametrize("visual", ["reshaped", "per_width"])
def test_only_adapters_and_global_prompts_learn(masks: MaskDecoder, norm: Any, visual: Any) -> None:
    """A Mask-VAE among the parameters would be trained, saved and counted."""
    learner = method(masks, replace(CONFIG, prompt_norm=norm, visual_prompt=visual))
    entries = learner.entries(NOTHING, BATCH, latents())
    prompts = (*entries.vision, *entries.windows.after_norm, *entries.text)
    torch.stack([p.square().sum() for p in prompts]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in learner.parameters())
    names = {name.split(".")[2] for name, _ in learner.named_parameters()}
    assert names == {"model", "global_prompt"}


@pytest.mark.parametrize(
    ("change", "vision", "text", "needs"),
    [
        ({"specific": ("vision",)}, (2, 4, 6), (1, 2, 8), 3),
        ({"general": ("text",)}, (2, 2, 6), (2, 4, 8), 3),
        ({"specific": ()}, (1, 2, 6), (1, 2, 8), 0),
        ({"general": ()}, (2, 2, 6), (2, 2, 8), 3),
    ],
)
def test_a_half_that_is_left_out_is_gone_from_its_tower_alone(
    masks: MaskDecoder, change: Any, vision: Any, text: Any, needs: int
) -> None:
    learner = method(masks, replace(CONFIG, **change))
    entries = learner.entries(NOTHING, BATCH, latents() if needs else None)
    assert tuple(entries.vision[0].shape) == vision
    assert tuple(entries.text[0].shape) == text
    assert (learner.latent_needs.layers if learner.latent_needs else 0) == needs


def test_a_tower_without_either_half_gets_no_prompt(masks: MaskDecoder) -> None:
    learner = method(masks, replace(CONFIG, specific=("vision",), general=("vision",)))
    entries = learner.entries(NOTHING, BATCH, latents())
    assert len(entries.vision) == 3
    assert not entries.text


def test_depth_null_takes_as_many_layers_as_both_towers_have(masks: MaskDecoder) -> None:
    assert method(masks, replace(CONFIG, depth=None)).layers == 3
    deep = replace(SHAPE, vision_widths=(4,) * 12, text_widths=(4,) * 12)
    assert replace(CONFIG, depth=None, steps=25).layers(deep) == 9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"depth": 4}, "text tower has only 3 layers"),
        ({"steps": 4}, "at least 5"),
    ],
)
def test_a_depth_that_does_not_fit_is_one_clear_error(
    masks: MaskDecoder, change: Any, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        method(masks, replace(CONFIG, **change))


def test_wrong_settings_are_named() -> None:
    setting = GroundingSetting(SHAPE, seed=0)
    for change in ({"prompt_length": 3}, {"specific": ["image"]}, {"depths": 3}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            build_task_method({"name": "diff_prompt", "generator": {}, **change}, setting)
    with pytest.raises(ConfigError, match="Mask-VAE"):
        build_task_method({"name": "diff_prompt", "generator": {}, "depth": None}, setting)


def test_layers_take_every_second_step_from_the_last() -> None:
    assert prompt_steps(9, 25) == (24, 22, 20, 18, 16, 14, 12, 10, 8)
    assert prompt_steps(5, 5, stride=1) == (4, 3, 2, 1, 0)


def test_more_prompt_layers_than_denoising_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"9 prompt layers.*at least 17.*there are 5"):
        prompt_steps(9, 5)


@pytest.mark.parametrize("image_size", [224, 64, 50])
def test_half_of_the_prompt_is_the_masks_and_half_the_layers(image_size: int) -> None:
    adapter = PromptAdapter(PromptAdapterConfig(3, 6, image_size=image_size), seed=0)
    masks = torch.randn(2, 1, image_size, image_size, generator=torch.Generator().manual_seed(0))
    first, last = adapter(masks, 0), adapter(masks, 2)
    assert first.shape == (2, 8, 6)
    assert torch.equal(first[:, :4], last[:, :4])  # the same masks
    assert not torch.equal(first[0, :4], first[1, :4])  # other masks
    assert torch.equal(first[0, 4:], first[1, 4:])  # the same layer
    assert not torch.equal(first[:, 4:], last[:, 4:])  # another layer


@pytest.mark.parametrize("base", [1, 2, 3])
def test_the_channels_of_an_adapter_are_those_of_its_base(base: int) -> None:
    adapter = PromptAdapter(PromptAdapterConfig(3, 6, image_size=64, base=base), seed=0)
    assert adapter.model is not None
    outside = [each.out_channels for each in adapter.model if isinstance(each, nn.Conv2d)]
    assert outside == [base * times for times in (1, 2, 4, 8, 16)]
    assert adapter(torch.zeros(2, 1, 64, 64), 0).shape == (2, 8, 6)


class FullSize:
    """Masks of the published side, decoded by nobody."""

    image_size = 224

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(("base", "numbers"), [(8, 21_907_072), (2, 5_465_968)])
def test_at_the_published_sizes_the_counts_are_the_released_ones(base: int, numbers: int) -> None:
    """21.9 M as released; with a base of 2 the 5.5 M of the paper's reviews."""
    widths = (96,) * 2 + (192,) * 2 + (384,) * 6 + (768,) * 2
    shape = GrounderShape(widths, (768,) * 12, (), 800, 256, 256)
    config = DiffPromptConfig(generator={}, adapter_base=base, visual_prompt="reshaped")
    with torch.device("meta"):
        learner = DiffPrompt(config, GroundingSetting(shape, seed=0, masks=FullSize()))
    assert sum(p.numel() for p in learner.parameters()) == numbers


def test_a_reshaped_prompt_holds_the_same_numbers_in_fewer_rows(masks: MaskDecoder) -> None:
    """One adapter for the tower; a wider block reads it row by row."""
    learner = method(masks, replace(CONFIG, visual_prompt="reshaped", prompt_norm="none"))
    entries = learner.entries(NOTHING, BATCH, latents())
    assert not entries.vision
    shapes = [tuple(prompt.shape) for prompt in entries.windows.after_norm]
    assert shapes == [(2, 4, 6), (2, 4, 6), (2, 2, 12)]
    (adapter,) = cast(Any, learner.vision)
    whole = adapter(masks(latents()[:, 2]), 2)  # [B, 4, 6]
    torch.testing.assert_close(entries.windows.after_norm[2], whole.reshape(2, 2, 12))


def test_a_prompt_that_wider_blocks_cannot_read_is_refused(masks: MaskDecoder) -> None:
    shape = replace(SHAPE, vision_widths=(6, 12, 24))
    config = replace(CONFIG, visual_prompt="reshaped", prompt_length=2)
    with pytest.raises(ConfigError, match=r"prompt_length=2: 2 x 6 .* width of 24.*multiple of 4"):
        DiffPrompt(config, GroundingSetting(shape, seed=0, masks=masks))


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({}, ("sample", "own")),
        ({"prompt_tiling": "released"}, ("released", "own")),
        ({"relative_bias": "released"}, ("sample", "released")),
    ],
)
@pytest.mark.parametrize("norm", ["none", "block"])
def test_how_prompts_stand_in_the_windows_reaches_the_grounder(
    masks: MaskDecoder, norm: Any, change: Any, rules: Any
) -> None:
    entries = method(masks, replace(CONFIG, prompt_norm=norm, **change)).entries(
        NOTHING, BATCH, latents()
    )
    assert (len(entries.vision), len(entries.windows.after_norm)) == (
        (0, 3) if norm == "none" else (3, 0)
    )
    assert (entries.windows.tiling, entries.windows.relative_bias) == rules


def test_global_prompts_start_as_large_as_released() -> None:
    """Behind the norm, small ones would be next to nothing: 1, 0.71, 0.5 for 2, 4, 8 rows."""
    for rows in (2, 4, 8):
        sizes = PromptAdapterConfig(1, 4096, prompt_length=2 * rows, image_size=32, base=1)
        prompt = PromptAdapter(sizes, seed=0).general(0).detach()
        assert float(prompt.std()) == pytest.approx((2 / rows) ** 0.5, rel=0.05)
    small = PromptAdapterConfig(1, 4096, image_size=32, base=1, init_std=0.02)
    assert float(PromptAdapter(small, seed=0).general(0).detach().std()) == pytest.approx(
        0.02, rel=0.05
    )


@pytest.mark.parametrize(("old", "base"), [({"adapter_width": 2}, 2), ({}, 1)])
@pytest.mark.parametrize("name", ["diff_prompt", "lpi_diff_prompt"])
def test_an_adapter_of_an_earlier_version_is_what_it_was(
    masks: MaskDecoder, name: str, old: Any, base: int
) -> None:
    """Its header says nothing of the norm, nor of the start; `adapter_width` was the base."""
    section = {"name": name, "generator": {}, "prompt_length": 4, "depth": 3, "steps": 5, **old}
    built = build_task_method(section, GroundingSetting(SHAPE, seed=1, masks=masks))
    learner = cast(Any, getattr(built, "instance", built))
    config = learner.config
    assert config.adapter_base == base
    assert (config.visual_prompt, config.prompt_norm) == ("per_width", "block")
    assert learner.vision[0].model[0].out_channels == base
    assert float(learner.vision[0].general(0).abs().max()) < 0.2
    with pytest.raises(ConfigError, match="adapter_widths"):
        build_task_method(section | {"adapter_widths": 2}, GroundingSetting(SHAPE, seed=1))


def test_odd_prompt_length_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt_length=7"):
        PromptAdapterConfig(3, 6, prompt_length=7)
