"""What methods ask of a text and of the tokens that enter, whatever kind of model it is."""

from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.backbones.tower_pair import TowerPair
from tests.backbones.kinds import LENGTH, TEXTS, inputs_for, prompt_for


@pytest.mark.parametrize("modality", MODALITIES)
def test_embedded_tokens_are_those_the_first_layer_gets(
    pair: TowerPair, library: Any, modality: Modality
) -> None:
    """A query from other tokens would choose prompts by what the tower never sees."""
    inputs, seen = inputs_for(pair, modality), []
    tower = library.vision_model if modality == "vision" else library.text_model
    layer = tower.encoder.layers[0]
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encode = library.get_image_features if modality == "vision" else library.get_text_features
    encode(inputs)
    handle.remove()
    assert torch.equal(pair.embed(modality, inputs), seen[0])


@pytest.mark.parametrize("modality", MODALITIES)
def test_embedding_ignores_earlier_prompts(pair: TowerPair, modality: Modality) -> None:
    inputs = inputs_for(pair, modality)
    before = pair.embed(modality, inputs)
    pair(modality, inputs, prompt_for(pair, modality))
    assert torch.equal(pair.embed(modality, inputs), before)


@pytest.mark.parametrize("placeholders", [0, 1, LENGTH])
def test_texts_without_placeholders_are_the_texts_as_they_are(
    pair: TowerPair, placeholders: int
) -> None:
    """Left in, placeholders would make the frozen model's feature that of another text."""
    ids = pair.tokenize(TEXTS, placeholders)
    assert torch.equal(pair.without_placeholders(ids, placeholders), pair.tokenize(TEXTS))


def test_text_lengths_count_up_to_the_end_token(pair: TowerPair) -> None:
    """Padding counted as text would make all short texts look alike."""
    ids = pair.tokenize([*TEXTS, ""])
    words: Tensor = torch.tensor([3, 2, 6, 0])
    assert torch.equal(pair.text_lengths(ids), words + 1 + pair.first_prompted)
