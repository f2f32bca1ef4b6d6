"""Check of what GLIP is given: images at both size rules, boxes, and the tokens of phrases."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from system.data.shards.padding import padded_together
from system.grounders.glip.glip_inputs import (
    SIDE_MULTIPLE,
    GlipPixels,
    Pictures,
    last_pixel_boxes,
)
from system.grounders.tokens import positive_tokens
from tests.golden.runner import Fixture, Tolerance, check

Outputs = Mapping[str, NDArray[Any]]


@check("glip_inputs", Tolerance(scaled=1e-5))
def _glip_inputs(fixture: Fixture) -> Outputs:
    """Lists of a phrase's tokens are compared exactly, by assertion."""
    config = json.loads(str(fixture["config_json"]))
    image = Image.fromarray(fixture["in_image"])
    rules = {
        "shortest_side": Pictures("shortest", config["min_size"], config["max_size"]),
        "square64": Pictures("squeeze", 64),
    }
    outputs: dict[str, NDArray[Any]] = {}
    for name, rule in rules.items():
        pictures = replace(rule, mean=tuple(config["mean_bgr"]), std=tuple(config["std_bgr"]))
        pixels = GlipPixels(pictures)(image, None)
        outputs[f"out_image_{name}"] = pixels.numpy()
        # The product's boxes are shares of the sides, whatever these become.
        shares = torch.from_numpy(fixture["in_boxes"]) / _sides(*image.size)
        height, width = pixels.shape[1:]
        outputs[f"out_boxes_{name}"] = (shares * _sides(width, height)).numpy()
        if name == "shortest_side":
            padded = padded_together([pixels], SIDE_MULTIPLE).pixels
            outputs["out_padded_shape"] = np.array(padded.shape)
    sizes = fixture["in_sizes_wh"].tolist()
    outputs["out_sizes_wh_800_1333"] = np.array([Pictures().size(*size) for size in sizes])
    outputs["out_xyxy"] = _learned_boxes(fixture)
    return {**outputs, **_tokens(fixture, config)}


def _learned_boxes(fixture: Fixture) -> NDArray[Any]:
    """Those that end at their last pixel; of the others the released code has none."""
    width, height = fixture["in_xywh_image_wh"].tolist()
    boxes = torch.from_numpy(fixture["in_xywh"])
    boxes[:, 2:] += boxes[:, :2]
    given = boxes / _sides(width, height)
    learned = last_pixel_boxes(given, width, height)
    changed = (learned != given).any(dim=1)
    return (learned * _sides(width, height))[changed].numpy()


def _tokens(fixture: Fixture, config: Mapping[str, Any]) -> Outputs:
    """The tokens of each phrase's spans, as shares of one."""
    from transformers import BertTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(config["vocabulary"]) + "\n", "utf-8")
        tokenizer = BertTokenizerFast.from_pretrained(folder)
    outputs = {}
    for number, phrases in enumerate(config["spans"]):
        encoded = tokenizer(config["captions"][number], return_offsets_mapping=True)
        assert encoded["input_ids"] == fixture[f"in_input_ids_{number}"].tolist()
        offsets = [(int(begin), int(end)) for begin, end in encoded["offset_mapping"]]
        assert offsets == [tuple(row) for row in fixture[f"in_char_offsets_{number}"].tolist()]
        found = [positive_tokens(offsets, spans) for spans in phrases]
        labels = json.loads(str(fixture[f"out_label_to_tokens_json_{number}"]))
        assert {str(label): tokens for label, tokens in enumerate(found, 1)} == labels
        rows = np.zeros_like(fixture[f"out_positive_map_{number}"])
        for row, tokens in zip(rows, found, strict=True):
            row[tokens] = 1
        outputs[f"out_positive_map_{number}"] = rows / (rows.sum(axis=1, keepdims=True) + 1e-6)
    return outputs


def _sides(width: int, height: int) -> Tensor:
    return torch.tensor([width, height, width, height], dtype=torch.float64)
