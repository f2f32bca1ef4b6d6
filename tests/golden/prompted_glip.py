"""A GLIP as the product loads it from a published file, and what prompts make of it on the way.

For the fixtures of LPI and Diff-Prompt on GLIP: see `lpi_on_glip` and `diff_prompt_on_glip`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from system.config.schema import GrounderConfig, SelectionConfig
from system.grounders.entries import Entries
from system.grounders.glip.glip import Glip
from system.grounders.glip.published_checkpoint import import_glip
from system.grounders.glip.published_sizes import PublishedOptions
from system.grounders.grounder import GroundingBatch, load_grounder
from system.grounders.tokens import Tokens
from system.storage.files import Folder
from tests.golden.glip_boxes import scored_boxes_in_order
from tests.golden.named_weights import state_dict
from tests.golden.runner import Fixture
from tests.grounders.published_glip import small_vocabulary, write_published, write_vocabulary


def weights_of(fixture: Fixture) -> dict[str, Tensor]:
    """The fixture's weights by their published names, those of a method among them."""
    made = state_dict(json.loads(str(fixture["keys_json"])), int(fixture["seed"]))
    return {name: torch.from_numpy(value) for name, value in made.items()}


def glip_of(weights: Mapping[str, Tensor], text_heads: int, **settings: Any) -> Glip:
    """The grounder that the product makes of a fixture's weights: imported, then loaded.

    `settings` are those of the config's section.
    """
    grounder = ("backbone.", "language_backbone.", "rpn.")
    own = {
        name: value
        for name, value in weights.items()
        if name.startswith(grounder) and ".interactModuleList." not in name
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = str(write_vocabulary(folder / "words", small_vocabulary()))
        file = write_published(folder / "glip.pth", own)
        options = PublishedOptions(tokenizer, text_heads=text_heads)
        import_glip(str(file), Folder.of(folder / "glip"), options)
        selection = SelectionConfig(threshold=0.05, candidates_per_level=1000)
        config = GrounderConfig("glip", str(folder / "glip"), selection=selection, **settings)
        loaded = load_grounder(config)
    assert isinstance(loaded, Glip)
    return loaded


def batch_of(fixture: Fixture, samples: int | None = None) -> GroundingBatch:
    """The fixture's first samples, or all; the tokens of label 1 name what is looked for."""
    images, ids, mask = (
        torch.from_numpy(fixture[f"in_{name}"])[:samples]
        for name in ("images", "input_ids", "attention_mask")
    )
    positive = torch.zeros_like(ids, dtype=torch.bool)
    positive[:, fixture["in_tokens_of_label_1"]] = True
    return GroundingBatch(images, Tokens(ids, mask, positive))


@dataclass(frozen=True)
class Seen:
    """What is computed on the way to the head's outputs."""

    texts: list[Tensor]  # what enters each BERT layer, and what leaves the last one: (B, T, D)
    embedded: Tensor  # (B, T, D), as regions meet them
    levels: list[Tensor]  # C2 to C5


def seen(grounder: Glip, batch: GroundingBatch, entries: Entries) -> Seen:
    """Run the grounder with entries. Nothing of it is changed; C2, which it does not hand on, is
    what enters the first merging of patches.
    """
    network = grounder.network
    texts: list[Tensor] = []
    found: dict[str, Any] = {}

    def keep(module: nn.Module, name: str) -> Any:
        return module.register_forward_pre_hook(lambda _, given: found.__setitem__(name, given))

    handles = [
        # Behind the hooks that add to what enters.
        *(
            layer.register_forward_pre_hook(lambda _, given: texts.append(given[0]))
            for layer in network.text_layers
        ),
        network.text.register_forward_hook(
            lambda _, __, output: texts.append(output.last_hidden_state)
        ),
        keep(network.vision.swin.encoder.layers[0].downsample, "merging"),
        keep(network.pyramid, "pyramid"),
        keep(network.token_scores, "scores"),
    ]
    try:
        with torch.no_grad():
            grounder.dense(batch, entries)
    finally:
        for handle in handles:
            handle.remove()
    hidden, sides = found["merging"][:2]
    finest = hidden.unflatten(1, sides).permute(0, 3, 1, 2)
    return Seen(texts, found["scores"][1], [finest, *found["pyramid"][0]])


def boxes_of(grounder: Glip, fixture: Fixture, entries: Entries) -> dict[str, NDArray[Any]]:
    """Boxes in pixels, scores and labels of the first sample, in the order of the fixture's."""
    batch = batch_of(fixture, samples=1)
    (best,) = grounder.ground(batch, entries)
    height, width = batch.images.shape[-2:]
    values = {
        "out_boxes": (best.boxes * torch.tensor([width, height] * 2)).numpy(),
        "out_scores": best.scores.numpy(),
        "out_labels": torch.ones(len(best.scores), dtype=torch.long).numpy(),
    }
    order = scored_boxes_in_order(
        tuple(values.values()),  # type: ignore[arg-type]
        tuple(fixture[name] for name in values),  # type: ignore[arg-type]
    )
    return {name: value[order] for name, value in values.items()}
