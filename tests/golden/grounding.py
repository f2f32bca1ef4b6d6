"""Checks of what Diff-Prompt is compared with, CLIP-Adapter and FedTPG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

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
