"""A twin of a backbone: its modules are its own, the weights are shared."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from system.backbones.clip import load_clip
from system.backbones.computation import Computation
from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.backbones.siglip import load_siglip
from tests.backbones.small_clip import IMAGE_SIZE, write_small_clip
from tests.backbones.small_siglip import write_small_siglip

LENGTH = 2


@pytest.fixture(params=["clip", "siglip", "clip, recomputed"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> DualEncoder:
    if request.param == "siglip":
        return load_siglip(str(write_small_siglip(tmp_path / "siglip", ["a", "dog"])))
    computation = Computation(gradient_checkpointing="recomputed" in request.param)
    return load_clip(str(write_small_clip(tmp_path / "clip", ["a", "dog"])), computation)


def inputs(backbone: DualEncoder, modality: Modality) -> Tensor:
    if modality == "text":
        return backbone.tokenize(["a dog", "dog"], LENGTH)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


def prompt(backbone: DualEncoder, modality: Modality) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, 2, LENGTH, backbone.shape.width(modality), generator=generator)


class Nothing(nn.Module):
    """Takes the place of a projection."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_twin_computes_the_same_with_and_without_prompts(
    backbone: DualEncoder, modality: Modality
) -> None:
    """What is compared with the frozen backbone must start as that backbone."""
    twin, x = backbone.with_own_modules(), inputs(backbone, modality)
    for entering in (None, prompt(backbone, modality)):
        assert torch.equal(twin(modality, x, entering), backbone(modality, x, entering))
    assert twin.fingerprint == backbone.fingerprint


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_module_put_into_the_twin_works_there_alone(
    backbone: DualEncoder, modality: Modality
) -> None:
    """A twin that still ran the backbone's own layers would train adapters that do nothing."""
    twin, x = backbone.with_own_modules(), inputs(backbone, modality)
    before = backbone(modality, x, None)
    tower = "vision_model" if modality == "vision" else "text_model"
    twin.get_submodule(f"model.{tower}.encoder.layers.0.self_attn").q_proj = Nothing()
    with torch.enable_grad():  # layers are computed again only where gradients are asked for
        assert not torch.allclose(twin(modality, x, None), before, atol=1e-6)
        assert torch.equal(backbone(modality, x, None), before)


def test_weights_are_in_memory_once(backbone: DualEncoder) -> None:
    """A second ViT-B/16 would be 600 MB on every worker."""
    own = {name: p.data_ptr() for name, p in backbone.named_parameters()}
    assert {name: p.data_ptr() for name, p in backbone.with_own_modules().named_parameters()} == own
