"""MaPLe: vision prompts are functions of the text prompts, and all tasks share them."""

import dataclasses
from typing import Any

import pytest
import torch

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.methods.base import RetrievalSetting
from system.methods.prompts.maple import Maple, MapleConfig, coupled
from system.methods.sharing import StreamMethod, build_method
from tests.methods.method_parts import LAYERS, backbone, build
from tests.methods.shared_parts import prompts_as_they_enter, retrieval_loss


def maple(seed: int = 0, **section: Any) -> StreamMethod:
    method = build("maple", section, seed=seed)
    method.begin_task(0, backbone())
    return method


def test_coupling_equals_a_linear_layer_each() -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 3, 4, generator=generator)
    layers = [torch.nn.Linear(4, 5) for _ in range(2)]
    weight = torch.stack([layer.weight for layer in layers])
    bias = torch.stack([layer.bias for layer in layers])
    expected = torch.stack([layer(x) for layer, x in zip(layers, text, strict=True)])
    torch.testing.assert_close(coupled(text, weight, bias), expected)


@pytest.mark.parametrize("coupling", ["per_layer", "shared"])
@pytest.mark.parametrize("depth", [None, 1, 2])
def test_parameters_in_all(coupling: str, depth: int | None) -> None:
    """The docstring's formula, which the comparison with LPI rests on."""
    method = maple(coupling=coupling, prompt_depth=depth, prompt_length=3)
    shape, layers = backbone().shape, depth or LAYERS
    functions = layers if coupling == "per_layer" else 1
    prompts, width = layers * 3 * shape.text_width, shape.text_width + 1
    assert method.parameters_per_task() == prompts + functions * width * shape.vision_width
    method.begin_task(2, backbone())
    assert method.parameters_in_all() == method.parameters_per_task()


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    """The paper's table names 3.55 million for ViT-B/16, nine layers, two tokens."""
    shape = dataclasses.replace(
        backbone().shape, vision_layers=12, text_layers=12, vision_width=768, text_width=512
    )
    method = build_method({"name": "maple", "prompt_depth": 9}, RetrievalSetting(shape, 0))
    assert sum(p.numel() for p in method.parameters()) == 3_555_072


@pytest.mark.parametrize("coupling", ["per_layer", "shared"])
def test_retrieval_teaches_every_parameter(coupling: str) -> None:
    method = maple(coupling=coupling)
    torch.autograd.backward(retrieval_loss(method))
    for name, parameter in method.task_parameters(0).items():
        assert parameter.grad is not None, name
        assert (parameter.grad.flatten(1).abs().amax(dim=1) > 0).all(), f"{name} has a dead layer"


@pytest.mark.parametrize(("vision", "text"), [(5, 3), (3, 5)])
def test_towers_of_other_depths_each_get_their_layers(vision: int, text: int) -> None:
    """Layers of the deeper tower would stay unprompted, or coupling functions without gradient."""
    shape = dataclasses.replace(backbone().shape, vision_layers=vision, text_layers=text)
    method = Maple(MapleConfig(), RetrievalSetting(shape, 0))
    prompts = [method.prompt(m) for m in MODALITIES]
    assert [len(prompt) for prompt in prompts] == [vision, text]
    torch.autograd.backward([prompt.square().sum() for prompt in prompts])
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.flatten(1).abs().amax(dim=1) > 0).all(), name


@pytest.mark.parametrize("modality", MODALITIES)
def test_deep_prompts_replace(modality: Modality) -> None:
    entered, features = prompts_as_they_enter(maple(), modality)
    assert torch.equal(features, entered)


def test_start_follows_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = maple(seed=4).of(0)
    torch.manual_seed(2)
    again, other = maple(seed=4).of(0), maple(seed=5).of(0)
    for modality in MODALITIES:
        same = (first.prompt(modality), again.prompt(modality), other.prompt(modality))
        found = torch.stack([prompt for prompt in same if prompt is not None])
        assert torch.equal(found[0], found[1])
        assert not torch.allclose(found[0], found[2], atol=1e-3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"prompt_depth": LAYERS + 1}, rf"method\.prompt_depth={LAYERS + 1}.*use 1\.\.{LAYERS}"),
        ({"prompt_depth": 0}, r"method\.prompt_depth=0 does not fit"),
        ({"prompt_length": 0}, r"method: prompt_length=0 must be at least 1"),
        ({"init_std": 0.0}, r"method: init_std=0\.0 must be above 0"),
        ({"coupling": "each"}, r"method\.coupling='each' is not one of: per_layer, shared"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        maple(**section)
