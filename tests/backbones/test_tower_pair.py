"""Prompts enter a frozen model without changing it, its texts and tokens, and its twins."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from system.backbones.clip import ClipBackbone, load_clip
from system.backbones.computation import Computation
from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.backbones.siglip import load_siglip
from system.backbones.tower_pair import TowerPair
from system.errors import ConfigError
from tests.backbones.prompted_by_hand import prompted_features
from tests.backbones.small_backbones import (
    LAYERS,
    LENGTH,
    TEXTS,
    Kind,
    gradient,
    inputs_for,
    plain_features,
    prompt_for,
)
from tests.backbones.small_clip import CONTEXT, IMAGE_SIZE, write_small_clip
from tests.backbones.small_siglip import write_small_siglip


@pytest.mark.parametrize("modality", MODALITIES)
def test_without_prompt_equal_to_the_library(
    pair: TowerPair, library: Any, modality: Modality
) -> None:
    """Zero-shot metrics and routing are the plain model's, also after a prompt or a crash."""
    inputs = inputs_for(pair, modality)
    expected = plain_features(library, modality, inputs)
    assert torch.equal(pair(modality, inputs, None), expected)
    prompted = pair(modality, inputs, prompt_for(pair, modality))
    assert not torch.allclose(prompted, expected, atol=1e-3)
    assert torch.equal(pair(modality, inputs, None), expected)
    with pytest.raises(RuntimeError):  # a prompt of another width fails inside the tower
        pair(modality, inputs, torch.zeros(1, LAYERS, LENGTH, 7))
    assert torch.equal(pair(modality, inputs, None), expected)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
def test_with_a_prompt_equal_to_the_modules_by_hand(
    pair: TowerPair, library: Any, modality: Modality, depth: int
) -> None:
    """A prompt at the wrong token or layer would train, and give wrong metrics."""
    inputs, prompt = inputs_for(pair, modality), prompt_for(pair, modality, 3)[:, :depth]
    expected = prompted_features(library, modality, inputs, prompt)
    torch.testing.assert_close(pair(modality, inputs, prompt), expected, rtol=1e-5, atol=1e-5)


def test_full_size_vit_b16_agrees_with_the_library_with_and_without_prompts() -> None:
    """Small models could hide what depends on the published sizes, heads or context."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(vision_config={"patch_size": 16})).eval()
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(2, 3, 224, 224, generator=generator)
    ids = torch.randint(1, 49000, (2, 77), generator=generator)
    ids[0, 30], ids[1, 76] = 49407, 49407
    inputs = {"vision": pixels, "text": ids}
    with torch.inference_mode():
        expected = {m: plain_features(model, m, inputs[m]) for m in MODALITIES}
        prompts, by_hand = {}, {}
        for modality, width in zip(MODALITIES, (768, 512), strict=True):
            prompts[modality] = torch.randn(2, 12, 16, width, generator=generator) * 0.1
            by_hand[modality] = prompted_features(
                model, modality, inputs[modality], prompts[modality]
            )
        backbone = ClipBackbone(model)
        for modality in MODALITIES:
            plain = backbone(modality, inputs[modality], None)
            assert torch.equal(plain, expected[modality])
            prompted = backbone(modality, inputs[modality], prompts[modality])
            torch.testing.assert_close(prompted, by_hand[modality], rtol=1e-5, atol=1e-5)
            assert (prompted - plain).abs().max() > 1e-3
    shape = backbone.shape
    assert (shape.vision_layers, shape.text_layers, shape.feature_width) == (12, 12, 512)
    assert (shape.vision_width, shape.text_width, shape.context_length) == (768, 512, 77)


def test_model_class_and_weights_stay_the_library_s(
    kind: Kind, pair: TowerPair, library: Any
) -> None:
    assert type(pair.model) is kind.plain
    assert list(pair.model.state_dict()) == list(library.state_dict())
    assert not any(parameter.requires_grad for parameter in pair.parameters())
    assert not pair.train().training
    assert not pair.model.training


@pytest.mark.parametrize("modality", MODALITIES)
def test_gradient_reaches_every_layer_s_prompt_and_no_weight(
    pair: TowerPair, modality: Modality
) -> None:
    """A layer without gradient would stay at its random start."""
    reached = gradient(pair, modality, prompt_for(pair, modality))
    assert (reached[0].abs().amax(dim=(1, 2)) > 0).all()
    assert all(parameter.grad is None for parameter in pair.parameters())


@pytest.mark.parametrize("modality", MODALITIES)
def test_per_sample_prompts_equal_each_sample_alone(pair: TowerPair, modality: Modality) -> None:
    """A prompt that leaked into a neighbour would make metrics depend on the batch."""
    inputs = inputs_for(pair, modality)
    prompts = prompt_for(pair, modality, batch=len(inputs))
    together = pair(modality, inputs, prompts)
    for i in range(len(inputs)):
        alone = pair(modality, inputs[i : i + 1], prompts[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("layers", [0, LAYERS + 1])
def test_prompt_of_a_wrong_depth_is_refused(
    pair: TowerPair, modality: Modality, layers: int
) -> None:
    wrong = torch.zeros(1, layers, LENGTH, pair.shape.width(modality))
    with pytest.raises(ValueError, match=f"{layers} layers does not fit a tower of {LAYERS}"):
        pair(modality, inputs_for(pair, modality), wrong)


def test_end_token_stays_when_words_are_cut(pair: TowerPair) -> None:
    """The feature is read at the end token, or was trained with one: without it, it is nothing."""
    end = pair.tokenizer.eos_token_id
    ids = pair.tokenize(["dog " * 50, "dog"], 4)
    assert ids.shape == (2, CONTEXT)
    assert ids[0, -1] == end
    assert (ids == end).sum(dim=1).tolist() == [1, 1]


def test_a_caption_that_spells_the_end_token_does_not_end_there(pair: TowerPair) -> None:
    """A caption from the web may hold any text: its second half would never be read."""
    tokenizer = pair.tokenizer
    end = tokenizer.eos_token
    marked = pair.tokenize([f"a red {end} dog", f"{end}", f"dog{end}"])
    assert (marked == tokenizer.eos_token_id).sum(dim=1).tolist() == [1, 1, 1]
    (dog,) = tokenizer("dog", add_special_tokens=False)["input_ids"]
    row = marked[0].tolist()
    assert row.index(dog) < row.index(tokenizer.eos_token_id)
    whole = tokenizer.convert_tokens_to_ids(end)
    assert whole == tokenizer.eos_token_id  # what the library would have put in the middle
    assert tokenizer(f"a {end}", add_special_tokens=False)["input_ids"][-1] == whole


def test_prompt_without_room_for_a_word_is_refused(pair: TowerPair) -> None:
    most = CONTEXT - 2 - pair.first_prompted
    assert pair.tokenize(["dog"], most).shape == (1, CONTEXT)
    with pytest.raises(ConfigError, match=f"prompt_length={most + 1} leaves no room"):
        pair.tokenize(["dog"], most + 1)


def test_no_texts_are_no_rows(pair: TowerPair) -> None:
    assert pair.tokenize([]).shape == (0, CONTEXT)


def test_logit_scale_is_the_factor_on_cosines(pair: TowerPair, library: Any) -> None:
    assert pair.logit_scale.shape == ()
    assert torch.equal(pair.logit_scale, library.logit_scale.exp().reshape(()))


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
