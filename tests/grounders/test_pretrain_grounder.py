"""Pre-training of the small grounder: repeatable, resumable, readable as a grounder."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from system.backbones.pretrain_loop import CHECKPOINT
from system.data.embedded.pictograms import catalogue
from system.data.embedded.scenes import SIZE
from system.errors import StorageError
from system.grounders.entries import Entries
from system.grounders.grounder import GroundingBatch
from system.grounders.pretrain_grounder import (
    GrounderPretrainConfig,
    pretrain_grounder,
    untrained,
    web_batch,
    web_loss,
)
from tests.grounders.small_glip import loaded

TINY = GrounderPretrainConfig(
    embed_dim=8,
    depths=(1, 1, 1),
    num_heads=(1, 1, 2),
    text_width=16,
    text_layers=1,
    text_heads=2,
    text_mlp_width=16,
    channels=16,
    blocks=1,
    pictograms_per_task=4,
    steps=4,
    batch_size=2,
    warmup_steps=2,
    checkpoint_every=2,
)


class _StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pretrained")
    torch.rand(3)  # the global generator must not matter
    pretrain_grounder(TINY, directory)
    return directory


def _equal(first: Path, second: Path) -> bool:
    one, two = (load_file(path / "model.safetensors") for path in (first, second))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_an_interrupted_training_ends_with_the_same_weights(trained: Path, tmp_path: Path) -> None:
    """The shipped weights must come from the recipe, however often it was stopped."""

    def stop(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        pretrain_grounder(TINY, tmp_path, stop)
    with pytest.raises(StorageError, match="another recipe: remove it"):
        pretrain_grounder(dataclasses.replace(TINY, seed=1), tmp_path)
    pretrain_grounder(TINY, tmp_path)
    assert _equal(trained, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_another_seed_is_another_model(trained: Path, tmp_path: Path) -> None:
    pretrain_grounder(dataclasses.replace(TINY, seed=1), tmp_path)
    assert not _equal(trained, tmp_path)


def test_what_is_written_loads_as_a_grounder(trained: Path) -> None:
    grounder = loaded(trained)
    assert (
        load_file(trained / "model.safetensors")["predictions.deltas.weight"].dtype == torch.float16
    )
    assert {value.dtype for value in grounder.parameters()} == {torch.float32}
    tokens = grounder.tokenize(["look at the THING on the top left"])
    assert grounder.tokenizer.unk_token_id not in tokens.ids
    record = json.loads((trained / "pretraining.json").read_text("utf-8"))
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(TINY)))
    assert math.isfinite(record["last_loss"])


def test_several_expressions_an_image_cost_one_look_and_change_no_loss() -> None:
    """The tower runs once a scene; the loss is the one that stages get from the grounder."""
    pictograms = catalogue(TINY.pictograms_per_task)
    batch = web_batch(TINY, pictograms, 0)
    grounder = untrained(TINY, pictograms)
    single = GroundingBatch(
        batch.pixels.repeat_interleave(4, dim=0),
        grounder.tokenize(batch.texts),
        list(batch.boxes[:, None] / SIZE),
    )
    terms = torch.stack(list(grounder.losses(single, Entries()).values()))
    torch.testing.assert_close(web_loss(grounder, batch), terms.sum(dim=0).mean())


def test_steps_on_one_batch_find_its_objects() -> None:
    """A sign error or a detached part would leave the boxes where they were."""
    config = dataclasses.replace(TINY, embed_dim=16, batch_size=1)
    pictograms = catalogue(TINY.pictograms_per_task)
    batch, grounder = web_batch(config, pictograms, 3), untrained(config, pictograms)
    network = grounder.network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = web_loss(grounder, batch)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
