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
from system.grounders.grounder import Grounder, GrounderShape, GroundingBatch, Tokens
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


def test_only_adapters_and_global_prompts_learn(masks: MaskDecoder) -> None:
    """A Mask-VAE among the parameters would be trained, saved and counted."""
    learner = method(masks)
    entries = learner.entries(NOTHING, BATCH, latents())
    sum(p.square().sum() for p in (*entries.vision, *entries.text)).backward()  # type: ignore[union-attr]
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


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_wider_adapter_has_so_many_times_the_channels(times: int) -> None:
    adapter = PromptAdapter(PromptAdapterConfig(3, 6, image_size=64, channels=times), seed=0)
    assert adapter.model is not None
    outside = [each.out_channels for each in adapter.model if isinstance(each, nn.Conv2d)]
    assert outside == [times * published for published in (1, 2, 4, 8, 16)]
    assert adapter(torch.zeros(2, 1, 64, 64), 0).shape == (2, 8, 6)


def test_odd_prompt_length_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt_length=7"):
        PromptAdapterConfig(3, 6, prompt_length=7)
