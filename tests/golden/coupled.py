"""Checks of prompts that couple the two towers: LPI's interaction, MaPLe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.methods.interaction import InteractionConfig, LowRankInteraction
from system.methods.prompts.maple import coupled
from tests.golden.runner import Fixture, check

Outputs = Mapping[str, NDArray[Any]]

DIRECTION: dict[Modality, str] = {"vision": "t2v", "text": "v2t"}
OUTPUT = re.compile(r"(vision|text)_out_layer(\d+)")


@check("interaction")
def _interaction(fixture: Fixture) -> Outputs:
    arrays = {key: torch.from_numpy(value) for key, value in fixture.items() if value.ndim}
    layers, rank = arrays["v2t_layer"].shape
    module = LowRankInteraction(
        InteractionConfig(rank=rank, mix=float(fixture["mix"])),
        layers,
        {m: arrays[f"{m}_in"].shape[-1] for m in MODALITIES},
        std=1.0,
        scale=1.0,
        generator=torch.Generator(),
    )
    state: dict[str, Tensor] = {}
    for modality, direction in DIRECTION.items():
        state[f"layer.{modality}"] = arrays[f"{direction}_layer"]
        state[f"source.{modality}"] = arrays[f"{direction}_in_plus_bias"]
        state[f"target.{modality}"] = arrays[f"{direction}_out"]
        state[f"norm_weight.{modality}"] = arrays[f"{modality}_norm_weight"]
        state[f"norm_bias.{modality}"] = arrays[f"{modality}_norm_bias"]
    module.load_state_dict(state)
    # The same prompts in every layer, [B, L, N, D]: a layer's outputs depend on nothing else.
    with torch.no_grad():
        found = module({m: arrays[f"{m}_in"][:, None].repeat(1, layers, 1, 1) for m in MODALITIES})
    outputs = {}
    for key in fixture:
        if match := OUTPUT.fullmatch(key):
            modality = "vision" if match[1] == "vision" else "text"
            outputs[key] = found[modality][:, int(match[2])].numpy()
    return outputs


@check("maple")
def _maple(fixture: Fixture) -> Outputs:
    arrays = {key: torch.from_numpy(value) for key, value in fixture.items()}
    shared = coupled(arrays["text_prompts"], arrays["weight"][None], arrays["bias"][None])
    per_layer = coupled(
        arrays["text_prompts_per_layer"], arrays["weights_per_layer"], arrays["biases_per_layer"]
    )
    return {"vision_prompts": shared.numpy(), "vision_prompts_per_layer": per_layer.numpy()}
