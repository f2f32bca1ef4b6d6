"""How the prompts of later layers enter: added to the prompt's tokens, or in their place."""

from typing import Any

import pytest
import torch

from system.backbones.dual_encoder import MODALITIES, Modality
from system.backbones.tower_pair import TowerPair
from tests.backbones.prompted_by_hand import prompted_features
from tests.backbones.small_backbones import LAYERS, inputs_for, plain_features, prompt_for


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
def test_replacing_prompts_equal_the_modules_by_hand(
    pair: TowerPair, library: Any, modality: Modality, depth: int
) -> None:
    """VPT and MaPLe replace: added, their prompts would be another method's under their name."""
    inputs, prompt = inputs_for(pair, modality), prompt_for(pair, modality, 3)[:, :depth]
    expected = prompted_features(library, modality, inputs, prompt, "replace")
    found = pair(modality, inputs, prompt, "replace")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    added = pair(modality, inputs, prompt)
    assert torch.equal(found, added) == (depth == 1)  # the first layer's enters the same way


@pytest.mark.parametrize("modality", MODALITIES)
def test_what_was_set_for_one_pass_does_not_stay(
    pair: TowerPair, library: Any, modality: Modality
) -> None:
    """Two methods may use one backbone in turn."""
    inputs, prompt = inputs_for(pair, modality), prompt_for(pair, modality)
    before = pair(modality, inputs, prompt)
    pair(modality, inputs, prompt, "replace")
    assert torch.equal(pair(modality, inputs, prompt), before)
    assert torch.equal(pair(modality, inputs, None), plain_features(library, modality, inputs))


@pytest.mark.parametrize("modality", MODALITIES)
def test_gradient_reaches_every_layer_s_replacing_prompt(
    pair: TowerPair, modality: Modality
) -> None:
    """A replaced prompt still reaches the feature, through the other tokens of its layer."""
    prompt = prompt_for(pair, modality).requires_grad_()
    pair(modality, inputs_for(pair, modality), prompt, "replace").square().sum().backward()
    assert prompt.grad is not None
    assert (prompt.grad[0].abs().amax(dim=(1, 2)) > 0).all()
