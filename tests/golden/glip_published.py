"""Checks of GLIP's towers and of whole GLIPs, whose weights the product reads from published files.

The files are synthetic: weights made from their names, with the prefix of a training on several
GPUs and what else a training's checkpoint holds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from system.data.shards.padding import padded_together
from system.grounders.glip.box_selection import (
    SelectionRules,
    label_probabilities,
    resize_boxes,
    select_boxes,
)
from system.grounders.glip.glip_files import GlipParts
from system.grounders.glip.glip_inputs import SIDE_MULTIPLE, GlipPixels, Pictures
from system.grounders.glip.predictions import BoxPredictions, TokenScores, places
from system.grounders.glip.published_checkpoint import load_published
from system.grounders.glip.published_sizes import PublishedOptions
from system.grounders.tokens import positive_tokens
from tests.golden.glip_boxes import scored_boxes_in_order
from tests.golden.glip_towers import filled, glip_bert, glip_swin
from tests.golden.named_weights import state_dict
from tests.golden.runner import Fixture, Tolerance, check
from tests.grounders.published_glip import full_keys, named, write_published, write_vocabulary

Outputs = Mapping[str, NDArray[Any]]

EXACT = Tolerance()


@contextmanager
def published(
    keys: Mapping[str, Any], fixture: Fixture, words: Sequence[str], **options: Any
) -> Iterator[GlipParts]:
    """What the product reads from a file with the fixture's weights."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer = str(write_vocabulary(Path(name), words))
        file = write_published(Path(name) / "glip.pth", named(keys, int(fixture["seed"])))
        yield load_published(file, PublishedOptions(tokenizer, **options), str(file))


@check("glip_swin", Tolerance(scaled=2e-5))
@torch.no_grad()
def _glip_swin(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    weights = state_dict(json.loads(str(fixture["keys_json"])), int(fixture["seed"]))
    swin = glip_swin(config, weights)
    outputs: dict[str, NDArray[Any]] = {}
    for key, image in fixture.items():
        if key.startswith("in_image_"):
            case = key.removeprefix("in_image_")
            levels = swin(torch.from_numpy(image)).feature_maps
            outputs |= {f"out_c{i + 2}_{case}": level.numpy() for i, level in enumerate(levels)}
    return outputs


@check("glip_language", Tolerance(scaled=2e-5))
@torch.no_grad()
def _glip_language(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    weights = state_dict(json.loads(str(fixture["keys_json"])), int(fixture["seed"]))
    features = [
        torch.from_numpy(value) for key, value in fixture.items() if key.startswith("in_feature_")
    ]
    head = nn.ModuleDict(
        {
            "predictions": BoxPredictions(config["channels"], len(features)),
            "token_scores": TokenScores(config["bert"]["hidden_size"], config["channels"]),
        }
    )
    for part, module in head.items():
        filled(module, part, weights)
    mask = torch.from_numpy(fixture["in_attention_mask"])
    bert = glip_bert(config["bert"], weights)
    hidden = bert(torch.from_numpy(fixture["in_input_ids"]), attention_mask=mask).last_hidden_state
    embedded = hidden * mask[..., None]
    kept = config["tokens_kept"]
    outputs = {
        "out_hidden": hidden[:, :kept],
        "out_embedded": embedded[:, :kept],
        "out_padding_hidden": hidden[:, -1],
        "out_padding_embedded": embedded[:, -1],
    }
    deltas, centres = head["predictions"](features)
    sizes = [feature.shape[-2:] for feature in features]
    first = 0
    for level, (feature, (height, width)) in enumerate(zip(features, sizes, strict=True)):
        logits = head["token_scores"](places(feature), embedded)
        end = first + height * width
        outputs |= {
            f"out_logits_{level}": logits[..., :kept],
            f"out_logits_padding_{level}": logits[..., -1],
            f"out_boxes_{level}": _as_map(deltas[:, first:end], height, width),
            f"out_centerness_{level}": _as_map(centres[:, first:end, None], height, width),
        }
        first = end
    return {name: value.numpy() for name, value in outputs.items()}


def _as_map(values: Tensor, height: int, width: int) -> Tensor:
    """(B, H * W, C) as (B, C, H, W)."""
    return values.transpose(1, 2).reshape(len(values), -1, height, width)


#: Boxes in pixels, scores, and labels, which are exact.
def _results(scaled: float, pixels: float, score: float) -> dict[str, Tolerance]:
    return {
        "out_boxes*": Tolerance(absolute=pixels),
        "out_scores": Tolerance(absolute=score),
        "out_labels": EXACT,
        "out_tensor_shape": EXACT,
        "*": Tolerance(scaled=scaled),
    }


@check("glip_end_to_end", _results(2e-4, 0.02, 1e-4))
@torch.no_grad()
def _glip_end_to_end(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    heads, groups = config["bert"]["num_attention_heads"], config["group_norm_groups"]
    keys = json.loads(str(fixture["keys_json"]))
    with published(
        keys, fixture, config["vocabulary"], text_heads=heads, norm_groups=groups
    ) as parts:
        return _grounded(parts, fixture, config)


@check("glip_full", _results(1e-3, 0.05, 2e-4))
@torch.no_grad()
def _glip_full(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    with published(full_keys(), fixture, config["vocabulary"]) as parts:
        return _grounded(parts, fixture, config)


#: Every so many-eth channel of a level, feature of a text, and pixel of an image is recorded.
STEP, PIXEL_STEP = 16, 7


def _grounded(parts: GlipParts, fixture: Fixture, config: Mapping[str, Any]) -> Outputs:
    """A caption's phrases grounded in an image, with what is computed on the way."""
    network, tokenizer = parts.network.eval(), parts.tokenizer
    encoded = tokenizer(config["caption"], return_offsets_mapping=True, return_tensors="pt")
    assert encoded["input_ids"][0].tolist() == fixture["in_input_ids"].tolist()
    offsets = [tuple(pair) for pair in encoded["offset_mapping"][0].tolist()]
    phrases = [
        positive_tokens(offsets, [tuple(span) for span in spans]) for spans in config["spans"]
    ]
    pictures = Pictures("shortest", config["min_size"], config["max_size"])
    tensor = GlipPixels(pictures)(Image.fromarray(fixture["in_image"]), None)
    images = padded_together([tensor], SIDE_MULTIPLE).pixels
    height, width = tensor.shape[-2:]

    tower = network.vision(images, output_hidden_states=True)
    text = network.read(encoded["input_ids"], encoded["attention_mask"])
    dense = network.locate(tower.feature_maps, text)
    chosen = torch.zeros(1, len(phrases), text.shape[1])
    for row, tokens in enumerate(phrases):
        chosen[0, row, tokens] = 1
    found = select_boxes(
        dense.boxes,
        label_probabilities(dense.tokens, chosen),
        dense.centreness,
        dense.anchors.per_level,
        [(height, width)],
        SelectionRules(),
    )[0]
    original = fixture["in_image"].shape[:2]
    boxes = {
        "out_boxes_network": found.boxes,
        "out_boxes": resize_boxes(found.boxes, (height, width), original),
        "out_scores": found.scores,
        "out_labels": found.labels + 1,
    }
    order = scored_boxes_in_order(
        (boxes["out_boxes"].numpy(), boxes["out_scores"].numpy(), boxes["out_labels"].numpy()),
        (fixture["out_boxes"], fixture["out_scores"], fixture["out_labels"]),
    )
    pyramid = network.pyramid(tower.feature_maps)
    head = network.head(pyramid)
    kept = fixture["out_logits"].shape[-1]
    outputs = {
        **{name: value[order] for name, value in boxes.items()},
        "out_tensor": tensor,
        "out_tensor_shape": torch.tensor(tensor.shape),
        "out_tensor_sample": tensor[:, ::PIXEL_STEP, ::PIXEL_STEP],
        "out_language_embedded": text[0, :kept, ::STEP],
        "out_logits": dense.tokens[..., :kept],
        "out_box_regression": dense.deltas.transpose(1, 2),
        "out_centerness": dense.centreness[:, None],
    }
    levels = {
        "body_c": (2, [tower.hidden_states[1], *tower.feature_maps]),
        "fpn_p": (3, pyramid),
        "tower_p": (3, head),
    }
    for name, (first, maps) in levels.items():
        for index, level in enumerate(maps, first):
            outputs[f"out_{name}{index}_every16th_channel"] = level[0, ::STEP]
    return {name: value.numpy() for name, value in outputs.items() if name in fixture}
