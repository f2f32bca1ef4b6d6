"""Prompts of Diff-Prompt: of the right latents, in the right layers, and only they learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig, build_mask_vae
from system.errors import ConfigError
from system.grounders.grounder import Grounder, GrounderShape, Tokens
from system.methods.grounding_method import GROUNDING_METHODS, GroundingSetting
from system.methods.prompts.diff_prompt import DiffPrompt, DiffPromptConfig

SHAPE = GrounderShape((6, 6, 12, 12), (8, 8, 8), (6, 12), 16, 10, 12)
NOTHING = cast(Grounder, None)  # the method asks the grounder for nothing
TOKENS = Tokens(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3))
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
    before = learner.entries(NOTHING, TOKENS, path)
    assert [tuple(p.shape) for p in before.vision] == [(2, 4, 6), (2, 4, 6), (2, 4, 12)]
    assert [tuple(p.shape) for p in before.text] == [(2, 4, 8)] * 3
    path[0, 1] += 1.0  # sample 0, layer 1
    after = learner.entries(NOTHING, TOKENS, path)
    for old, new in ((before.vision, after.vision), (before.text, after.text)):
        changed = [not torch.allclose(a, b) for a, b in zip(old, new, strict=True)]
        assert changed == [False, True, False]
        torch.testing.assert_close(old[1][1], new[1][1])  # the other sample's


def test_a_prompt_is_the_adapted_mask_and_then_the_global_half(masks: MaskDecoder) -> None:
    learner, path = method(masks), latents()
    prompt = learner.entries(NOTHING, TOKENS, path).vision[2]
    adapter = cast(Any, learner.vision[1])  # the second width's, whose first layer this is
    torch.testing.assert_close(prompt, adapter(masks(path[:, 2]), 0))
    torch.testing.assert_close(prompt[1, 2:], adapter.general(0)[0])


def test_only_adapters_and_global_prompts_learn(masks: MaskDecoder) -> None:
    """A Mask-VAE among the parameters would be trained, saved and counted."""
    learner = method(masks)
    entries = learner.entries(NOTHING, TOKENS, latents())
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
    entries = learner.entries(NOTHING, TOKENS, latents() if needs else None)
    assert tuple(entries.vision[0].shape) == vision
    assert tuple(entries.text[0].shape) == text
    assert (learner.latent_needs.layers if learner.latent_needs else 0) == needs


def test_a_tower_without_either_half_gets_no_prompt(masks: MaskDecoder) -> None:
    learner = method(masks, replace(CONFIG, specific=("vision",), general=("vision",)))
    entries = learner.entries(NOTHING, TOKENS, latents())
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
    factory = GROUNDING_METHODS.get("diff_prompt")
    setting = GroundingSetting(SHAPE, seed=0)
    for change in ({"prompt_length": 3}, {"specific": ["image"]}, {"depths": 3}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            factory.build({"name": "diff_prompt", "generator": {}, **change}, setting)
    with pytest.raises(ConfigError, match="Mask-VAE"):
        factory.build({"name": "diff_prompt", "generator": {}, "depth": None}, setting)
