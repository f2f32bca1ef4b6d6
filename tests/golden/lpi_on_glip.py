"""Checks LPI's prompts and interaction in GLIP's towers, with weights in the published naming."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from system.backbones.dual_encoder import MODALITIES, Modality
from system.grounders.grounder import Added, GrounderShape
from system.grounders.lockstep import Lockstep
from system.methods.base import GroundingSetting
from system.methods.interaction import InteractionConfig
from system.methods.prompts.lpi import GroundingLowRank, LowRankConfig
from system.methods.sharing import chosen_entries
from tests.golden.glip_towers import glip_bert, glip_swin
from tests.golden.named_weights import state_dict
from tests.golden.runner import Fixture, check

Outputs = Mapping[str, NDArray[Any]]

NAMES: dict[Modality, str] = {"vision": "visual", "text": "textual"}
DIRECTION: dict[Modality, str] = {"vision": "t2v", "text": "v2t"}
#: Every so many-eth feature of a text, and channel of a level, is recorded.
TEXT_STEP, STEPS = 8, (8, 8, 4, 4)


def lpi_of(
    config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], task: int
) -> GroundingLowRank:
    """The product's method with a task's released parameters."""
    depths, width = config["depths"], config["embed_dim"]
    shape = GrounderShape(
        vision_widths=tuple(
            width << stage for stage, depth in enumerate(depths) for _ in range(depth)
        ),
        text_widths=(config["bert"]["hidden_size"],) * config["bert"]["num_hidden_layers"],
        pyramid_widths=(),
        image_size=config["side"],
        context_length=256,
        feature_width=1,
    )
    method = GroundingLowRank(
        LowRankConfig(
            rank=config["rank"],
            prompt_length=config["prompt_length"],
            prompt_depth=config["prompt_depth"],
            entry="add",
            interaction=InteractionConfig("tokens", None, config["rank"], config["mix"]),
        ),
        GroundingSetting(shape, 0),
    )
    prompts = f"prompts.{task}"
    exchange = f"language_backbone.body.model.encoder.interactModuleList.{task}"
    state = {"layer": f"{prompts}.dim_1_share"}
    for m in MODALITIES:
        state |= {
            f"position.{m}": f"{prompts}.dim_2_{NAMES[m]}",
            f"feature.{m}": f"{prompts}.dim_3_{NAMES[m]}",
            f"interaction.layer.{m}": f"{exchange}.dim_1_{DIRECTION[m]}",
            f"interaction.source.{m}": f"{exchange}.dim_2_{DIRECTION[m]}",
            f"interaction.target.{m}": f"{exchange}.dim_3_{DIRECTION[m]}",
            f"interaction.norm_weight.{m}": f"{exchange}.{NAMES[m]}_norm.weight",
            f"interaction.norm_bias.{m}": f"{exchange}.{NAMES[m]}_norm.bias",
        }
    method.factors.load_state_dict(
        {own: torch.from_numpy(weights[name]) for own, name in state.items()}
    )
    return method


@contextmanager
def entering(layers: nn.ModuleList) -> Iterator[dict[int, Tensor]]:
    """What enters each layer of a BERT, by its number."""
    found: dict[int, Tensor] = {}

    def keep(index: int) -> Any:
        def hook(_: nn.Module, args: Any) -> None:
            found[index] = args[0]

        return hook

    handles = [layer.register_forward_pre_hook(keep(i)) for i, layer in enumerate(layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@check("lpi_on_glip")
@torch.no_grad()
def _lpi_on_glip(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    weights = state_dict(json.loads(str(fixture["keys_json"])), int(fixture["seed"]))
    images, ids, mask, tasks = (
        torch.from_numpy(fixture[f"in_{name}"])
        for name in ("images", "input_ids", "attention_mask", "tasks")
    )
    plain = {name: value for name, value in weights.items() if "interactModuleList" not in name}
    swin, bert = glip_swin(config, plain), glip_bert(config["bert"], plain)
    lockstep = Lockstep(swin, bert)
    methods = {int(task): lpi_of(config, weights, int(task)) for task in tasks}
    batch: Any = None  # these entries do not depend on it
    each = [methods[int(task)].entries(batch, batch, None) for task in tasks]
    right = chosen_entries(each, torch.arange(len(tasks))).added
    assert right is not None
    first = each[0].added
    assert first is not None
    runs: dict[str, tuple[Added, slice]] = {
        # As released the whole batch interacts by its first sample's task.
        "batch": (replace(right, exchange=first.exchange), slice(None)),
        "second_alone": (right, slice(1, 2)),  # in the batch, each sample by its own task
        "additive_only": (replace(right, exchanging=range(0)), slice(None)),
        "no_prompt": (Added((), ()), slice(None)),
    }
    outputs: dict[str, NDArray[Any]] = {}
    for run, (added, rows) in runs.items():
        with lockstep.active(added, images), entering(bert.encoder.layer) as texts:
            texts[len(bert.encoder.layer)] = bert(ids, attention_mask=mask).last_hidden_state
            levels = swin(images).feature_maps
        for name in fixture:
            if name.startswith(f"out_{run}_text_"):
                hidden = texts[int(name.rpartition("_")[2])]
                length = fixture[name].shape[1]
                outputs[name] = hidden[rows, :length, ::TEXT_STEP].numpy()
        for index, (level, step) in enumerate(zip(levels, STEPS, strict=True)):
            outputs[f"out_{run}_c{index + 2}"] = level[rows, ::step].numpy()
    found = [entries.added for entries in each if entries.added is not None]
    width = config["embed_dim"]
    outputs["out_visual_prompt_layer3"] = torch.cat(
        [added.vision[3].reshape(1, -1, width) for added in found]
    ).numpy()
    outputs["out_text_prompt_layer3"] = torch.cat(
        [added.text[3][..., ::TEXT_STEP] for added in found]
    ).numpy()
    return outputs
