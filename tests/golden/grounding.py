"""Checks of what Diff-Prompt is compared with, CLIP-Adapter and FedTPG, and of GLIP's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from system.grounders.grounder import positive_tokens
from system.methods.prompts.fedtpg import FedTpgConfig, PromptTranslator
from system.methods.weights.clip_adapter import adapter_branch
from tests.golden.runner import Fixture, check

Outputs = Mapping[str, NDArray[Any]]


@check("clip_adapter")
def _clip_adapter(fixture: Fixture) -> Outputs:
    arrays = {key: torch.from_numpy(value) for key, value in fixture.items()}
    output = adapter_branch(arrays["features"], arrays["down"], arrays["up"])
    return {"output": output.numpy()}


@check("fedtpg")
def _fedtpg(fixture: Fixture) -> Outputs:
    weights = {
        key.removeprefix("weights/"): torch.from_numpy(value)
        for key, value in fixture.items()
        if key.startswith("weights/")
    }
    length, width = weights["query"].shape
    words = torch.from_numpy(fixture["text_embeddings"])
    config = FedTpgConfig(context_length=length, heads=int(fixture["heads"]))
    translator = PromptTranslator(words.shape[-1], width, config, seed=0)
    translator.load_state_dict(weights, strict=True)
    with torch.no_grad():
        return {"output": translator(words).numpy()}


@check("glip_inputs")
def _glip_inputs(fixture: Fixture) -> Outputs:
    """The tokens of each phrase's spans, as shares of one; sizes of images and boxes are GLIP's."""
    outputs = {}
    for number, phrases in enumerate(json.loads(str(fixture["config_json"]))["spans"]):
        offsets = [(int(begin), int(end)) for begin, end in fixture[f"in_char_offsets_{number}"]]
        rows = np.zeros_like(fixture[f"out_positive_map_{number}"])
        for row, spans in zip(rows, phrases, strict=True):
            row[positive_tokens(offsets, spans)] = 1
        outputs[f"out_positive_map_{number}"] = rows / (rows.sum(axis=1, keepdims=True) + 1e-6)
    return outputs
