"""MaPLe: vision prompts are functions of the text prompts, and all tasks share them."""

import dataclasses
from typing import Any

import pytest
import torch

from system.backbones.dual_encoder import MODALITIES, Modality
from system.config.compose import composed_values, experiment_of
from system.errors import ConfigError
from system.methods.base import RetrievalSetting
from system.methods.prompts.maple import WORDS, Maple, MapleConfig, coupled
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
    """The paper's table names 3.55 million for ViT-B/16, nine layers, two tokens, not twelve."""
    shape = dataclasses.replace(
        backbone().shape, vision_layers=12, text_layers=12, vision_width=768, text_width=512
    )
    method = build_method({"name": "maple", "prompt_depth": 9}, RetrievalSetting(shape, 0))
    assert sum(p.numel() for p in method.parameters()) == 3_555_072
    deeper = build_method({"name": "maple", "prompt_depth": 12}, RetrievalSetting(shape, 0))
    assert sum(p.numel() for p in deeper.parameters()) == 4_740_096


def test_a_depth_of_nine_is_all_there_is_in_a_smaller_model() -> None:
    """The YAML's default has to fit every backbone."""
    section = default_section("maple")
    assert section["prompt_depth"] == 9
    method = maple(**section)
    assert [len(prompt_of(method, m)) for m in MODALITIES] == [LAYERS, LAYERS]


def default_section(name: str) -> dict[str, Any]:
    return experiment_of(composed_values([f"method={name}"])).method


def prompt_of(method: StreamMethod, modality: Modality, task: int = 0) -> torch.Tensor:
    prompt = method.of(task).prompt(modality)
    assert prompt is not None
    return prompt.detach()


@pytest.mark.parametrize("sharing", ["own", "shared"])
def test_the_first_text_prompt_starts_as_words_and_once(sharing: str) -> None:
    """Started anew at a later task, what the stream has learned would be gone."""
    method = maple(start="words", sharing=sharing)
    words = backbone().embed_words(WORDS)
    assert len(words) == 4
    assert torch.equal(prompt_of(method, "text")[0], words[:2])
    plain = maple(start="normal", sharing=sharing)
    assert torch.equal(prompt_of(method, "text")[1:], prompt_of(plain, "text")[1:])
    assert not torch.allclose(prompt_of(plain, "text")[0], words[:2], atol=1e-3)
    with torch.no_grad():
        for parameter in method.task_parameters(0).values():
            parameter.add_(0.5)
    learned = prompt_of(method, "text")
    method.begin_task(1, backbone())
    assert torch.equal(prompt_of(method, "text"), learned)
    if sharing == "own":
        assert torch.equal(prompt_of(method, "text", 1)[0], words[:2])
    longer = maple(start="words", prompt_length=5)
    same = maple(start="normal", prompt_length=5)
    assert torch.equal(prompt_of(longer, "text"), prompt_of(same, "text"))


def test_words_have_no_positions_and_no_begin_or_end() -> None:
    """A prompt enters before the positions are added: it would have them twice."""
    model = backbone()
    ids = model.tokenize(["a red dog"])[0, 1:4]
    expected = model.model.text_model.embeddings.token_embedding.weight[ids]
    assert torch.equal(model.embed_words("a red dog"), expected)


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
        ({"prompt_depth": 0}, r"method: prompt_depth=0 must be at least 1"),
        ({"prompt_length": 0}, r"method: prompt_length=0 must be at least 1"),
        ({"init_std": 0.0}, r"method: init_std=0\.0 must be above 0"),
        ({"coupling": "each"}, r"method\.coupling='each' is not one of: per_layer, shared"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        maple(**section)
