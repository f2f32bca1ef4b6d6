"""Small checkpoints of every kind of backbone, and inputs for them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel, SiglipModel

from system.backbones.clip import load_clip
from system.backbones.computation import Computation
from system.backbones.dual_encoder import BackboneLoader, Modality
from system.backbones.siglip import load_siglip
from system.backbones.tower_pair import TowerPair
from tests.backbones.small_clip import IMAGE_SIZE, write_small_clip
from tests.backbones.small_siglip import write_small_siglip

WORDS = ["a", "red", "dog", "on", "the", "hill"]
TEXTS = ["a red dog", "the hill", "a dog on the red hill"]
LAYERS, LENGTH = 3, 2


@dataclass(frozen=True)
class Kind:
    """A kind of backbone: how its checkpoint is written, loaded by us, loaded by the library."""

    name: str
    write: Callable[..., Path]
    loader: BackboneLoader
    plain: Any

    def load(self, path: str, computation: Computation = Computation()) -> TowerPair:  # noqa: B008
        """What our loader makes of a checkpoint."""
        loaded = self.loader(path, computation)
        assert isinstance(loaded, TowerPair)
        return loaded


KINDS = [
    Kind("clip", write_small_clip, load_clip, CLIPModel),
    Kind("siglip", write_small_siglip, load_siglip, SiglipModel),
]


def inputs_for(backbone: TowerPair, modality: Modality) -> Tensor:
    """Images (3, 3, H, W) or ids (3, T) with room for a prompt."""
    if modality == "text":
        return backbone.tokenize(TEXTS, LENGTH)
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


def prompt_for(backbone: TowerPair, modality: Modality, batch: int = 1) -> Tensor:
    """A random prompt (batch, LAYERS, LENGTH, D)."""
    generator = torch.Generator().manual_seed(1)
    width = backbone.shape.width(modality)
    return torch.randn(batch, LAYERS, LENGTH, width, generator=generator)


def plain_features(plain: Any, modality: Modality, inputs: Tensor) -> Tensor:
    """What the library gives for these inputs."""
    encode = plain.get_image_features if modality == "vision" else plain.get_text_features
    features: Tensor = encode(inputs).pooler_output
    return features


def gradient(backbone: TowerPair, modality: Modality, prompt: Tensor) -> Tensor:
    """The gradient of a number made of prompted features, in the prompt."""
    leaf = prompt.clone().requires_grad_()
    backbone(modality, inputs_for(backbone, modality), leaf).square().sum().backward()
    assert leaf.grad is not None
    return leaf.grad
