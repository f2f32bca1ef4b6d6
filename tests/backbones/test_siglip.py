"""What is SigLIP's own: texts without a begin token, read at the last position; no NaFlex."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from system.backbones.image_transform import IMAGENET_MEAN, IMAGENET_STD
from system.backbones.siglip import SiglipBackbone, load_siglip
from system.config.schema import Augmentation, InputConfig
from system.errors import ConfigError
from tests.backbones.edited_checkpoint import Edit, edited, in_json, written
from tests.backbones.small_backbones import LAYERS, LENGTH, WORDS, prompt_for
from tests.backbones.small_clip import CONTEXT, IMAGE_SIZE
from tests.backbones.small_siglip import siglip_tokenizer, write_small_siglip


def load(directory: Path) -> SiglipBackbone:
    loaded = load_siglip(str(directory))
    assert isinstance(loaded, SiglipBackbone)
    return loaded


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_siglip(tmp_path_factory.mktemp("siglip"), WORDS, layers=LAYERS)


@pytest.fixture(scope="module")
def backbone(directory: Path) -> SiglipBackbone:
    return load(directory)


def test_tokens_are_placeholders_words_end_padding(backbone: SiglipBackbone) -> None:
    """SigLIP was trained on texts padded to the whole context, the end token behind the words."""
    words = backbone.tokenizer("red dog", add_special_tokens=False)["input_ids"]
    row = backbone.tokenize(["red dog"], 3)[0].tolist()
    assert row == [2] * 3 + words + [1] + [0] * (CONTEXT - 6)
    assert backbone.tokenize(["red dog"])[0].tolist() == words + [1] + [0] * (CONTEXT - 3)


def test_placeholders_are_no_end_where_the_padding_is(directory: Path, tmp_path: Path) -> None:
    """The first SigLIP pads with its end token: a text would seem to end where it begins."""
    padded = edited(directory, tmp_path, in_json("tokenizer_config.json", pad_token="</s>"))
    row = load(padded).tokenize(["dog"], 3)[0].tolist()
    assert row[:3] == [2] * 3
    assert row[4:] == [1] * (CONTEXT - 4)


def test_capitals_count_for_nothing_as_in_training(directory: Path, tmp_path: Path) -> None:
    """SigLIP 2's checkpoints name a tokenizer that keeps capitals the model has never seen."""
    keeps = edited(directory, tmp_path, in_json("tokenizer.json", normalizer=None))
    backbone = load(keeps)
    assert torch.equal(backbone.tokenize(["A Red DOG"]), backbone.tokenize(["a red dog"]))
    in_json("tokenizer_config.json", do_lower_case=False)(keeps)
    asked = load(keeps)
    assert not torch.equal(asked.tokenize(["A Red DOG"]), asked.tokenize(["a red dog"]))


def test_text_is_read_behind_the_whole_context(backbone: SiglipBackbone) -> None:
    """With the prompt in front, what the last position says still depends on every word."""
    prompt = prompt_for(backbone, "text")
    features = backbone.encode_text(backbone.tokenize(["a red dog"], LENGTH), prompt)
    ids = backbone.tokenize(["a red dog"], LENGTH)
    ids[0, :LENGTH] = 5  # placeholders are replaced
    assert torch.equal(features, backbone.encode_text(ids, prompt))
    ids[0, LENGTH] = 6
    assert not torch.allclose(features, backbone.encode_text(ids, prompt))


@pytest.mark.parametrize(
    ("normalisation", "mean", "deviation"),
    [("checkpoint", 0.5, 0.5), ("imagenet", IMAGENET_MEAN, IMAGENET_STD)],
)
def test_images_come_in_the_size_and_range_of_the_checkpoint(
    backbone: SiglipBackbone,
    normalisation: Literal["checkpoint", "imagenet"],
    mean: object,
    deviation: object,
) -> None:
    """SigLIP squeezes an image to a square; nothing is cut off but by the augmentation."""
    image = Image.new("RGB", (50, 40), (255, 255, 255))
    white = (1 - torch.tensor(mean)) / torch.tensor(deviation)
    cases: list[tuple[Augmentation, Any]] = [
        ("none", None),
        ("crop_flip", np.random.default_rng(0)),
    ]
    for augmentation, rng in cases:
        pixels = backbone.image_transform(InputConfig(normalisation), augmentation)(image, rng)
        assert pixels.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
        torch.testing.assert_close(pixels.mean(dim=(1, 2)), white.expand(3))


def test_naflex_checkpoints_are_refused_with_what_to_take(directory: Path, tmp_path: Path) -> None:
    """`google/siglip2-base-patch16-naflex` looks like its siblings and takes other inputs."""
    naflex = edited(directory, tmp_path, in_json("config.json", model_type="siglip2"))
    with pytest.raises(ConfigError, match=r"NaFlex.*google/siglip2-base-patch16-224"):
        load(naflex)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (in_json("config.json", model_type="clip"), "holds a 'clip' model, not a SigLIP"),
        (in_json("tokenizer_config.json", eos_token=None), "the tokenizer has no end token"),
        (
            in_json("preprocessor_config.json", size={"height": 24, "width": 24}),
            r"gives images of 24x24.*takes 32x32.*correct size",
        ),
        (
            in_json("config.json", "vision_config", vision_use_head=False),
            "towers give no features of one width",
        ),
    ],
)
def test_a_directory_that_is_no_siglip_is_one_error(
    directory: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    """Some of these would load without an error, and give features of no meaning."""
    with pytest.raises(ConfigError, match=message) as caught:
        load(edited(directory, tmp_path, edit))
    assert "backbone.path" in str(caught.value)


def test_another_model_s_tokenizer_is_refused(directory: Path, tmp_path: Path) -> None:
    """Its words would be other words to the model: recalls near chance, and no error."""
    larger = siglip_tokenizer([*WORDS, "blue"])
    serialised = larger.backend_tokenizer.to_str().encode()
    with pytest.raises(ConfigError, match="tokenizer has 10 tokens but the model embeds 9"):
        load(edited(directory, tmp_path, written("tokenizer.json", serialised)))
    smaller = write_small_siglip(tmp_path / "smaller", WORDS, vocab_size=2000)
    with pytest.raises(ConfigError, match="tokenizer has 9 tokens but the model embeds 2000"):
        load(smaller)


def test_a_padded_embedding_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """Vocabularies are often filled up to a multiple of 64 or 128."""
    load(write_small_siglip(tmp_path / "padded", WORDS, vocab_size=128))
