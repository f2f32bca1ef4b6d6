"""What is CLIP's own: its begin and end tokens, and the checkpoints it comes in."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPProcessor

from system.backbones.clip import ClipBackbone, load_clip
from system.errors import ConfigError
from tests.backbones.edited_checkpoint import Edit, edited, in_json, removed, written
from tests.backbones.small_backbones import LAYERS, LENGTH, WORDS, prompt_for
from tests.backbones.small_clip import CONTEXT, write_small_clip


def load(directory: Path) -> ClipBackbone:
    loaded = load_clip(str(directory))
    assert isinstance(loaded, ClipBackbone)
    return loaded


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_clip(tmp_path_factory.mktemp("clip"), WORDS, layers=LAYERS)


@pytest.fixture(scope="module")
def backbone(directory: Path) -> ClipBackbone:
    return load(directory)


def test_tokens_are_begin_placeholders_words_end_padding(backbone: ClipBackbone) -> None:
    tokenizer = backbone.tokenizer
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    words = tokenizer("red dog", add_special_tokens=False)["input_ids"]
    row = backbone.tokenize(["red dog"], 3)[0].tolist()
    assert row == [begin] * 4 + words + [end] + [0] * (CONTEXT - 7)


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
        (in_json("config.json", model_type="siglip"), "holds a 'siglip' model, not a CLIP"),
        (in_json("config.json", projection_dim=21), "the weights could not be loaded"),
        (
            in_json("config.json", "text_config", eos_token_id=4),
            "reads its text feature at token 4",
        ),
        (in_json("preprocessor_config.json", crop_size=24), r"gives images of 24x24.*takes 32x32"),
    ],
)
def test_a_directory_that_is_no_clip_is_one_error(
    directory: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    """Some of these would load without an error, and give features of no meaning."""
    with pytest.raises(ConfigError, match=message) as caught:
        load(edited(directory, tmp_path, edit))
    assert "backbone.path" in str(caught.value)


def test_tokenizer_larger_than_the_model_is_refused(directory: Path, tmp_path: Path) -> None:
    other = write_small_clip(tmp_path / "other", [*WORDS, "blue"])
    tokenizer = (other / "tokenizer.json").read_bytes()
    with pytest.raises(ConfigError, match="tokenizer has 11 tokens but the model embeds 10"):
        load(edited(directory, tmp_path, written("tokenizer.json", tokenizer)))
