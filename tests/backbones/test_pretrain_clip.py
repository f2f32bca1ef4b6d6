"""Pre-training of the small CLIP: repeatable, resumable, readable by `from_pretrained`."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig

from system.backbones.clip import load_clip
from system.backbones.pretrain_clip import (
    PretrainConfig,
    build_model,
    build_tokenizer,
    contrastive_step,
    pretrain,
    web_batch,
)
from system.backbones.pretrain_loop import CHECKPOINT
from system.data.embedded.pictograms import catalogue
from system.errors import ConfigError, StorageError

TINY = PretrainConfig(
    patch_size=16,
    width=16,
    mlp_width=16,
    vision_layers=2,
    text_layers=1,
    heads=2,
    pictograms_per_task=4,
    steps=6,
    batch_size=8,
    warmup_steps=2,
    checkpoint_every=2,
)


class _StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pretrained")
    pretrain(TINY, directory)
    return directory


def _weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def _equal(first: Path, second: Path) -> bool:
    one, two = _weights(first), _weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_one_seed_gives_one_model_to_the_bit(trained: Path, tmp_path: Path) -> None:
    """Else nobody could check that the shipped weights come from the shipped recipe."""
    torch.rand(3)  # the global generator must not matter
    pretrain(TINY, tmp_path / "same")
    assert _equal(trained, tmp_path / "same")
    pretrain(dataclasses.replace(TINY, seed=1), tmp_path / "other")
    assert not _equal(trained, tmp_path / "other")


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    """A run whose noise depends on what was built before cannot be repeated."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    pretrain(dataclasses.replace(TINY, steps=1), tmp_path)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_an_interrupted_training_ends_with_the_same_weights(
    trained: Path, tmp_path: Path, stop_after: int
) -> None:
    """Half an hour of training must survive a kill, and the result must not depend on it."""

    def stop(done: int, total: int, loss: float) -> None:
        if done == stop_after:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        pretrain(TINY, tmp_path, stop)
    assert (tmp_path / CHECKPOINT).is_file() == (stop_after > 2)
    pretrain(TINY, tmp_path)
    assert _equal(trained, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    """Going on with other settings would give a model that no recipe describes."""

    def stop(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        pretrain(TINY, tmp_path, stop)
    with pytest.raises(StorageError, match="another recipe: remove it"):
        pretrain(dataclasses.replace(TINY, learning_rate=1e-4), tmp_path)


def test_what_is_written_loads_as_a_backbone(trained: Path) -> None:
    """The directory must work like any published CLIP checkpoint."""
    backbone = load_clip(str(trained))
    tokenizer: Any = backbone.tokenizer
    word = catalogue(TINY.pictograms_per_task).pictograms[0].word
    ids = backbone.tokenize([f"A photo of a {word.upper()}"], placeholders=4)
    assert tokenizer.unk_token_id not in ids
    assert (
        ids.max()
        == tokenizer.eos_token_id
        == CLIPConfig.from_pretrained(trained).text_config.eos_token_id
    )
    assert tokenizer.eos_token_id != 2
    assert torch.isfinite(backbone.encode_text(ids, None)).all()
    assert {value.dtype for value in backbone.state_dict().values()} <= {torch.float32, torch.int64}
    assert _weights(trained)["logit_scale"].dtype == torch.float16


def test_the_record_says_how_it_was_made(trained: Path) -> None:
    record = json.loads((trained / "pretraining.json").read_text("utf-8"))
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(TINY)))
    assert math.isfinite(record["last_loss"])


def test_easy_scenes_come_first_and_fade_out() -> None:
    """From the full scenes alone the towers take several times as long to find any word."""
    config = dataclasses.replace(TINY, batch_size=32, steps=100)
    pictograms = catalogue(TINY.pictograms_per_task)
    first, _ = web_batch(config, pictograms, 0)
    again, captions = web_batch(config, pictograms, 0)
    assert np.array_equal(first, again)
    assert len(captions) == len(first) == 32
    late, _ = web_batch(config, pictograms, 60)
    # Four pictograms cover more than one or two: the pictures vary more.
    assert late.reshape(32, -1).std(1).mean() > first.reshape(32, -1).std(1).mean()


def test_steps_on_one_batch_lower_the_loss() -> None:
    """A sign error or detached tower would leave the loss at log B."""
    tokenizer = build_tokenizer(["red", "blue", "green", "grey"], 8)
    model = build_model(TINY, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    shades = torch.tensor([-1.0, 1.0, 0.0, 2.0])
    pixels = shades[:, None, None, None].expand(4, 3, 64, 64).clone()
    pixels[2, 0] = 3.0
    ids = tokenizer(["red", "blue", "green", "grey"], return_tensors="pt")["input_ids"]
    losses = [contrastive_step(model, optimizer, pixels, ids) for _ in range(60)]
    assert losses[0] > 1.0
    assert losses[-1] < losses[0] / 2


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="patch_size=7 does not divide"):
        PretrainConfig(patch_size=7)
    with pytest.raises(ConfigError, match="width=130 is no multiple of heads=4"):
        PretrainConfig(width=130)
