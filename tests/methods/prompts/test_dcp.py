"""DCP: prompts of both towers read each other layer after layer, and all tasks share them."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.methods.base import RetrievalSetting
from system.methods.interaction import OTHER
from system.methods.prompts.dcp import Dcp, PromptAttention
from system.methods.sharing import StreamMethod, build_method
from tests.methods.method_parts import LAYERS, backbone, build, images, tokens
from tests.methods.shared_parts import prompts_as_they_enter, retrieval_loss

LENGTH = 3


def dcp(seed: int = 0, **section: Any) -> StreamMethod:
    sizes = {"prompt_length": LENGTH, "head_width": 8}
    method = build("dcp", sizes | section, seed=seed)
    method.begin_task(0, backbone())
    return method


def inner(method: StreamMethod) -> Dcp:
    found = method.of(0)
    assert isinstance(found, Dcp)
    return found


def test_attention_equals_the_library_s() -> None:
    """Queries from the other tower, keys and values the own ones; an MLP; residuals."""
    generator = torch.Generator().manual_seed(0)
    ours = PromptAttention(8, 6, heads=2, generator=generator)
    own, other = torch.randn(3, 8, generator=generator), torch.randn(3, 6, generator=generator)
    library = nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        library.in_proj_weight.copy_(ours.attention_weight[:24])
        library.in_proj_bias.copy_(ours.attention_bias[:24])
        library.out_proj.weight.copy_(ours.attention_weight[24:])
        library.out_proj.bias.copy_(ours.attention_bias[24:])
        asking = ours.norms[0](other @ ours.other_weight.T + ours.other_bias)
        asked = ours.norms[0](own)
        mixed = own + library(asking, asked, asked)[0]
        inner = ours.norms[1](mixed) @ ours.up_weight.T + ours.up_bias
        inner = inner * torch.sigmoid(1.702 * inner)
        expected = mixed + inner @ ours.down_weight.T + ours.down_bias
        torch.testing.assert_close(ours(own, other), expected)


@pytest.mark.parametrize("attention", ["shared", "per_layer"])
def test_parameters_in_all(attention: str) -> None:
    """The docstring's formula, which the comparison with LPI rests on."""
    method = dcp(attention=attention)
    v, t = backbone().shape.vision_width, backbone().shape.text_width
    each = 12 * v**2 + 12 * t**2 + 2 * v * t + 14 * v + 14 * t
    count = 1 if attention == "shared" else LAYERS - 1
    assert method.parameters_per_task() == LENGTH * (v + t) + count * each
    method.begin_task(2, backbone())
    assert method.parameters_in_all() == method.parameters_per_task()


def test_parameters_at_the_published_sizes() -> None:
    shape = dataclasses.replace(
        backbone().shape, vision_layers=12, text_layers=12, vision_width=768, text_width=512
    )
    method = build_method({"name": "dcp", "prompt_depth": 9}, RetrievalSetting(shape, 0))
    assert sum(p.numel() for p in method.parameters()) == 11_048_448


@pytest.mark.parametrize("attention", ["shared", "per_layer"])
def test_retrieval_teaches_every_parameter(attention: str) -> None:
    """A parameter without gradient would count against the method and do nothing."""
    method = dcp(attention=attention)
    torch.autograd.backward(retrieval_loss(method))
    for name, parameter in method.task_parameters(0).items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, f"no gradient reaches {name}"


@pytest.mark.parametrize(("vision", "text"), [(5, 3), (3, 5)])
@pytest.mark.parametrize("attention", ["shared", "per_layer"])
def test_towers_of_other_depths_each_get_their_layers(
    vision: int, text: int, attention: str
) -> None:
    """Attentions that nothing reads would count as trained and never learn."""
    shape = dataclasses.replace(backbone().shape, vision_layers=vision, text_layers=text)
    section = {"name": "dcp", "attention": attention, "head_width": 8}
    method = inner(build_method(section, RetrievalSetting(shape, 0)))
    prompts = method.prompts()
    assert (len(prompts["vision"]), len(prompts["text"])) == (vision, text)
    torch.autograd.backward([prompt.square().sum() for prompt in prompts.values()])
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_tower_reads_the_other_from_the_second_layer_on(modality: Modality) -> None:
    method = inner(dcp())
    before = method.prompts()[modality].detach().clone()
    with torch.no_grad():
        method.first[OTHER[modality]].add_(torch.linspace(0, 1, LENGTH)[:, None]).mul_(-3)
    after = method.prompts()[modality]
    assert torch.equal(after[0], before[0])
    for layer in range(1, LAYERS):
        assert not torch.allclose(after[layer], before[layer], atol=1e-5), layer


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_feature_does_not_depend_on_the_samples_it_comes_with(modality: Modality) -> None:
    """The released code averages prompts over the batch: figures would depend on its order."""
    method = dcp()
    inputs = images() if modality == "vision" else tokens(method)
    tasks = torch.zeros(5, dtype=torch.long)
    together = method.encode(backbone(), modality, inputs, tasks)
    for i in range(5):
        alone = method.encode(backbone(), modality, inputs[i : i + 1], tasks[:1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_deep_prompts_replace(modality: Modality) -> None:
    entered, features = prompts_as_they_enter(dcp(), modality)
    assert torch.equal(features, entered)


def test_start_follows_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = inner(dcp(seed=4)).prompts()
    torch.manual_seed(2)
    again, other = inner(dcp(seed=4)).prompts(), inner(dcp(seed=5)).prompts()
    for modality in MODALITIES:
        assert torch.equal(first[modality], again[modality])
        assert not torch.allclose(first[modality], other[modality], atol=1e-3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"prompt_depth": LAYERS + 1}, rf"method\.prompt_depth={LAYERS + 1}.*use 2\.\.{LAYERS}"),
        ({"prompt_depth": 1}, r"method\.prompt_depth=1 does not fit"),
        ({"prompt_length": 0}, r"method: prompt_length=0 must be at least 1"),
        ({"head_width": 0}, r"method: head_width=0 must be at least 1"),
        ({"head_width": 5}, r"method\.head_width=5 does not divide the vision tower's width of 32"),
        ({"init_std": 0.0}, r"method: init_std=0\.0 must be above 0"),
        ({"attention": "each"}, r"method\.attention='each' is not one of: shared, per_layer"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dcp(**section)
