"""Prompts enter a frozen CLIP without changing it; a wrong checkpoint is one clear error."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel, CLIPProcessor

from system.backbones.clip import ClipBackbone, load_clip
from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from tests.backbones.edited_clip import Edit, edited, in_json, removed, written
from tests.backbones.small_clip import CONTEXT, IMAGE_SIZE, write_small_clip

WORDS = ["a", "red", "dog", "on", "the", "hill"]
TEXTS = ["a red dog", "the hill", "a dog on the red hill"]
LAYERS, LENGTH = 3, 2


def load(directory: Path) -> ClipBackbone:
    clip = load_clip(str(directory))
    assert isinstance(clip, ClipBackbone)
    return clip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_clip(tmp_path_factory.mktemp("clip"), WORDS, layers=LAYERS)


@pytest.fixture(scope="module")
def backbone(directory: Path) -> ClipBackbone:
    return load(directory)


@pytest.fixture(scope="module")
def plain(directory: Path) -> Any:
    return CLIPModel.from_pretrained(directory).eval()


def pixels(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


def prompt_for(backbone: ClipBackbone, modality: Modality, batch: int = 1, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    width = backbone.shape.width(modality)
    return torch.randn(batch, LAYERS, LENGTH, width, generator=generator)


def inputs_for(backbone: ClipBackbone, modality: Modality) -> Tensor:
    return pixels() if modality == "vision" else backbone.tokenize(TEXTS, LENGTH)


def plain_features(plain: Any, modality: Modality, inputs: Tensor) -> Tensor:
    encode = plain.get_image_features if modality == "vision" else plain.get_text_features
    features: Tensor = encode(inputs).pooler_output
    return features


@pytest.mark.parametrize("modality", MODALITIES)
def test_without_prompt_equal_to_the_library(
    backbone: ClipBackbone, plain: Any, modality: Modality
) -> None:
    """Zero-shot figures and routing are the plain model's, also after a prompt or a crash."""
    inputs = inputs_for(backbone, modality)
    expected = plain_features(plain, modality, inputs)
    assert torch.equal(backbone(modality, inputs, None), expected)
    prompted = backbone(modality, inputs, prompt_for(backbone, modality))
    assert not torch.allclose(prompted, expected, atol=1e-3)
    assert torch.equal(backbone(modality, inputs, None), expected)
    with pytest.raises(RuntimeError):  # a prompt of another width fails inside the tower
        backbone(modality, inputs, torch.zeros(1, LAYERS, LENGTH, 7))
    assert torch.equal(backbone(modality, inputs, None), expected)


def test_model_class_and_weights_stay_the_library_s(backbone: ClipBackbone, plain: Any) -> None:
    assert type(backbone.model) is CLIPModel
    assert list(backbone.model.state_dict()) == list(plain.state_dict())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.train().training
    assert not backbone.model.training


@pytest.mark.parametrize("modality", MODALITIES)
def test_gradient_reaches_every_layer_s_prompt_and_no_weight(
    backbone: ClipBackbone, modality: Modality
) -> None:
    """A layer without gradient would stay at its random start."""
    prompt = prompt_for(backbone, modality).requires_grad_()
    backbone(modality, inputs_for(backbone, modality), prompt).square().sum().backward()
    assert prompt.grad is not None
    assert (prompt.grad[0].abs().amax(dim=(1, 2)) > 0).all()
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
def test_each_depth_enters_its_own_layers(
    backbone: ClipBackbone, modality: Modality, depth: int
) -> None:
    """Zeros below a depth add nothing there; a shallower prompt must give the same features."""
    inputs, deep = inputs_for(backbone, modality), prompt_for(backbone, modality)
    deep[:, depth:] = 0
    shallow = backbone(modality, inputs, deep[:, :depth])
    assert torch.equal(shallow, backbone(modality, inputs, deep))
    if depth > 1:
        assert not torch.allclose(
            shallow, backbone(modality, inputs, deep[:, : depth - 1]), atol=1e-4
        )


@pytest.mark.parametrize("modality", MODALITIES)
def test_per_sample_prompts_equal_each_sample_alone(
    backbone: ClipBackbone, modality: Modality
) -> None:
    """A prompt that leaked into a neighbour would make figures depend on the batch."""
    inputs = inputs_for(backbone, modality)
    prompts = prompt_for(backbone, modality, batch=len(inputs))
    together = backbone(modality, inputs, prompts)
    for i in range(len(inputs)):
        alone = backbone(modality, inputs[i : i + 1], prompts[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("layers", [0, LAYERS + 1])
def test_prompt_of_a_wrong_depth_is_refused(
    backbone: ClipBackbone, modality: Modality, layers: int
) -> None:
    wrong = torch.zeros(1, layers, LENGTH, backbone.shape.width(modality))
    with pytest.raises(ValueError, match=f"{layers} layers does not fit a tower of {LAYERS}"):
        backbone(modality, inputs_for(backbone, modality), wrong)


def test_tokens_are_begin_placeholders_words_end_padding(backbone: ClipBackbone) -> None:
    tokenizer = backbone.tokenizer
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    words = tokenizer("red dog", add_special_tokens=False)["input_ids"]
    row = backbone.tokenize(["red dog"], 3)[0].tolist()
    assert row == [begin] * 4 + words + [end] + [0] * (CONTEXT - 7)
    assert backbone.tokenize([]).shape == (0, CONTEXT)


def test_end_token_stays_when_words_are_cut(backbone: ClipBackbone) -> None:
    """The feature is read at the end token: without it a long caption has none."""
    ids = backbone.tokenize(["dog " * 50, "dog"], 4)
    assert ids.shape == (2, CONTEXT)
    assert ids[0, -1] == backbone.tokenizer.eos_token_id
    assert (ids == backbone.tokenizer.eos_token_id).sum(dim=1).tolist() == [1, 1]


def test_prompt_without_room_for_a_word_is_refused(backbone: ClipBackbone) -> None:
    assert backbone.tokenize(["dog"], CONTEXT - 3).shape == (1, CONTEXT)
    with pytest.raises(ConfigError, match=f"prompt_length={CONTEXT - 2} leaves no room"):
        backbone.tokenize(["dog"], CONTEXT - 2)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("pad_is_end", [False, True])
def test_text_is_read_at_its_end_token(
    directory: Path, tmp_path: Path, legacy: bool, pad_is_end: bool
) -> None:
    """CLIP's own tokenizer pads with the end token, and its old configs name 2 as the end."""
    edits = [in_json("config.json", "text_config", eos_token_id=2)] if legacy else []
    if pad_is_end:
        edits.append(in_json("tokenizer_config.json", pad_token="<eos>"))
    clip = load(edited(directory, tmp_path, *edits))
    ids = clip.tokenize(["a red dog"], LENGTH)
    end = 1 + LENGTH + 3
    assert ids[0, end] == clip.tokenizer.eos_token_id
    assert (ids[0, -1] == clip.tokenizer.eos_token_id) == pad_is_end
    prompt = prompt_for(clip, "text")
    features = clip.encode_text(ids, prompt)
    longer = clip.tokenize(["a red dog"], LENGTH)
    longer[0, end + 1 :] = 1  # what follows the end is not read
    assert torch.equal(features, clip.encode_text(longer, prompt))
    changed = clip.tokenize(["a red hill"], LENGTH)
    assert not torch.allclose(features, clip.encode_text(changed, prompt))


def test_what_a_processor_saves_is_loaded(directory: Path, tmp_path: Path) -> None:
    """`CLIPProcessor.save_pretrained` writes processor_config.json and no preprocessor_config."""
    whole = load(directory)
    copy = edited(directory, tmp_path, removed("preprocessor_config.json"))
    CLIPProcessor(whole.image_processor, AutoTokenizer.from_pretrained(directory)).save_pretrained(
        copy
    )
    assert not (copy / "preprocessor_config.json").exists()
    assert load(copy).fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (removed("config.json"), r"has no config\.json"),
        (removed("model.safetensors"), r"has no model\.safetensors"),
        (removed("tokenizer.json"), r"has no tokenizer\.json"),
        (removed("preprocessor_config.json"), r"has no preprocessor_config\.json"),
        (written("config.json", b"{"), r"config\.json is not valid JSON"),
        (written("tokenizer_config.json", b"{"), r"tokenizer_config\.json is not valid JSON"),
        (written("model.safetensors", b"x" * 99), "the weights could not be loaded"),
        (in_json("config.json", model_type="bert"), "holds a 'bert' model, not a CLIP"),
        (in_json("config.json", model_type="foo"), r"the config\.json could not be loaded.*`foo`"),
        (in_json("config.json", projection_dim=21), "the weights could not be loaded"),
        (
            in_json("config.json", "vision_config", num_hidden_layers=LAYERS + 1),
            r"the weights lack 16 of the model's tensors \(vision_model\.encoder\.layers\.3",
        ),
        (
            in_json("config.json", "text_config", eos_token_id=4),
            "reads its text feature at token 4",
        ),
        (in_json("preprocessor_config.json", crop_size=24), r"gives images of 24x24.*takes 32x32"),
    ],
)
def test_a_wrong_directory_is_one_error_naming_the_file(
    directory: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    """Some of these would load without an error, with random weights or an empty tokenizer."""
    with pytest.raises(ConfigError, match=message) as caught:
        load(edited(directory, tmp_path, edit))
    assert "backbone.path" in str(caught.value)


def test_tokenizer_larger_than_the_model_is_refused(directory: Path, tmp_path: Path) -> None:
    other = write_small_clip(tmp_path / "other", [*WORDS, "blue"])
    tokenizer = (other / "tokenizer.json").read_bytes()
    with pytest.raises(ConfigError, match="tokenizer has 11 tokens but the model embeds 10"):
        load(edited(directory, tmp_path, written("tokenizer.json", tokenizer)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nobody/has-this-model", "HF_HUB_OFFLINE"),
        ("not a/hub/id", "could not be loaded"),
        ("/no/such/directory", "does not exist.*promptide pretrain"),
        ("./no-such-directory", "does not exist"),
    ],
)
def test_a_path_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read at import
    with pytest.raises(ConfigError, match=message) as caught:
        load_clip(path)
    assert f"backbone.path={path!r}" in str(caught.value)


def test_logit_scale_is_the_factor_on_cosines(backbone: ClipBackbone, plain: Any) -> None:
    assert torch.equal(backbone.logit_scale, plain.logit_scale.exp())


def test_fingerprint_follows_the_weights_and_not_the_place(
    directory: Path, tmp_path: Path, backbone: ClipBackbone
) -> None:
    """An adapter must load on a copy of its backbone, and on no other one."""
    moved = load(edited(directory, tmp_path))
    assert moved.fingerprint == backbone.fingerprint
    changed = load(directory)
    weight = changed.model.vision_model.post_layernorm.weight
    with torch.no_grad():
        weight[3] += 1e-6
    assert changed.fingerprint != backbone.fingerprint
