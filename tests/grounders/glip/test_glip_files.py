"""A grounder's directory: written, read back, and refused with one clear error."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from system.errors import ConfigError, PromptideError
from system.grounders.glip.glip_files import load_glip_parts
from tests.grounders.small_glip import glip_config, write_small_glip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_small_glip(tmp_path / "glip")


def _edit_config(directory: Path, section: str, **values: object) -> None:
    file = directory / "config.json"
    content = json.loads(file.read_text("utf-8"))
    (content[section] if section else content).update(values)
    file.write_text(json.dumps(content), "utf-8")


def _edit_weights(directory: Path, lost: str | None, added: str | None) -> None:
    file = directory / "model.safetensors"
    weights = load_file(file)
    if lost:
        del weights[lost]
    if added:
        weights[added] = torch.zeros(1)
    save_file(weights, file)


def test_what_is_written_comes_back(directory: Path) -> None:
    parts = load_glip_parts(str(directory))
    weights = load_file(directory / "model.safetensors")
    assert parts.network.config == glip_config(len(parts.tokenizer))
    assert parts.network.state_dict().keys() == weights.keys()
    assert all(torch.equal(v, weights[k]) for k, v in parts.network.state_dict().items())


def test_loading_leaves_the_global_generator_alone(directory: Path) -> None:
    """A run's noise must not depend on what was built before."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_glip_parts(str(directory))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "has no config.json; a GLIP is"),
        ("model.safetensors", "has no model.safetensors"),
        ("tokenizer.json", "has no tokenizer.json or vocab.txt"),
    ],
)
def test_a_missing_file_is_named(directory: Path, file: str, message: str) -> None:
    (directory / file).unlink()
    with pytest.raises(ConfigError, match=message):
        load_glip_parts(str(directory))


def test_a_missing_directory_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"grounder\.path=.* is no directory.*promptide pretrain"):
        load_glip_parts(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("lost", "added", "message"),
    [
        ("predictions.deltas.weight", None, r"missing: predictions\.deltas\.weight"),
        (None, "text.pooler.bias", r"left over: text\.pooler\.bias"),
    ],
)
def test_keys_that_do_not_fit_are_named(
    directory: Path, lost: str | None, added: str | None, message: str
) -> None:
    """Tensors left random would give metrics without a warning."""
    _edit_weights(directory, lost, added)
    with pytest.raises(ConfigError, match=message):
        load_glip_parts(str(directory))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("text", {"hidden_size": 16}, r"text\.embeddings\.\S+ .*12\) instead of .*16\)"),
        ("vision", {"embed_dims": 8}, r"unknown key .*embed_dims; did you mean .*embed_dim"),
        ("", {"model_type": "swin"}, "holds a 'swin' model, not a GLIP of our form"),
        ("", {"format_version": 9}, "is of format 9; this promptide reads 1"),
        ("text", {"vocab_size": 5}, "the tokenizer has 11 tokens but the model embeds 5"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    directory: Path, section: str, values: dict[str, object], message: str
) -> None:
    _edit_config(directory, section, **values)
    with pytest.raises(ConfigError, match=message):
        load_glip_parts(str(directory))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_torn_file_is_one_clear_error(directory: Path, file: str) -> None:
    whole = (directory / file).read_bytes()
    (directory / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PromptideError, match=re.escape(str(directory))):
        load_glip_parts(str(directory))


def test_a_plain_vocabulary_file_is_a_bert_s(directory: Path) -> None:
    """What BERT's authors distribute is a vocab.txt alone."""
    for file in directory.glob("tokenizer*"):
        file.unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "the", "red", "##der"]
    (directory / "vocab.txt").write_text("\n".join(words), "utf-8")
    tokenizer = load_glip_parts(str(directory)).tokenizer
    assert tokenizer("The REDder dog")["input_ids"] == [2, 6, 7, 8, 5, 3]
