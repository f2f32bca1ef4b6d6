"""Checks LPI on GLIP: prompts and interaction in both towers, what routes, and the boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality, unit
from system.config.schema import ImageSizeConfig
from system.grounders.entries import Entries
from system.grounders.grounder import GrounderShape
from system.methods.base import GroundingSetting
from system.methods.interaction import InteractionConfig
from system.methods.low_rank import LowRankConfig
from system.methods.prompts.lpi import GroundingLowRank
from system.methods.sharing import chosen_entries
from tests.golden.prompted_glip import batch_of, boxes_of, glip_of, seen, weights_of
from tests.golden.runner import Fixture, Tolerance, check

Outputs = Mapping[str, NDArray[Any]]

NAMES: dict[Modality, str] = {"vision": "visual", "text": "textual"}
DIRECTION: dict[Modality, str] = {"vision": "t2v", "text": "v2t"}
#: Every so many-eth feature of a text, and channel of a level, is recorded.
TEXT_STEP, STEPS = 8, (8, 8, 4, 4)


def lpi_of(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], shape: GrounderShape, task: int
) -> GroundingLowRank:
    """The product's method with a task's released parameters."""
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
    method.factors.load_state_dict({own: weights[name] for own, name in state.items()})
    return method


@check("lpi_on_glip", {"out_boxes": Tolerance(absolute=0.02), "*": Tolerance(scaled=5e-5)})
@torch.no_grad()
def _lpi_on_glip(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    weights = weights_of(fixture)
    grounder = glip_of(
        weights,
        config["bert"]["num_attention_heads"],
        images=ImageSizeConfig("squeeze", config["side"]),
        routing_feature="coarsest",
    )
    batch, tasks = batch_of(fixture), fixture["in_tasks"].tolist()
    methods = {task: lpi_of(config, weights, grounder.shape, task) for task in tasks}
    each = [methods[task].entries(grounder, batch, None) for task in tasks]
    right = chosen_entries(each, torch.arange(len(tasks)))
    first, added = each[0].added, right.added
    assert first is not None
    assert added is not None
    runs: dict[str, tuple[Entries, slice]] = {
        # As released the whole batch interacts by its first sample's task.
        "batch": (Entries(added=replace(added, exchange=first.exchange)), slice(None)),
        "second_alone": (right, slice(1, 2)),  # in the batch, each sample by its own task
        "additive_only": (Entries(added=replace(added, exchanging=range(0))), slice(None)),
        "no_prompt": (Entries(), slice(None)),
    }
    outputs: dict[str, NDArray[Any]] = {}
    for run, (entries, rows) in runs.items():
        found = seen(grounder, batch, entries)
        for name in fixture:
            if name.startswith(f"out_{run}_text_"):
                hidden = found.texts[int(name.rpartition("_")[2])]
                length = fixture[name].shape[1]
                outputs[name] = hidden[rows, :length, ::TEXT_STEP].numpy()
        for index, (level, step) in enumerate(zip(found.levels, STEPS, strict=True)):
            outputs[f"out_{run}_c{index + 2}"] = level[rows, ::step].numpy()
    prompts = [entries.added for entries in each if entries.added is not None]
    width = config["embed_dim"]
    outputs["out_visual_prompt_layer3"] = torch.cat(
        [each.vision[3].reshape(1, -1, width) for each in prompts]
    ).numpy()
    outputs["out_text_prompt_layer3"] = torch.cat(
        [each.text[3][..., ::TEXT_STEP] for each in prompts]
    ).numpy()
    outputs["out_routing_feature"] = unit(grounder.routing_features(batch.images)).numpy()
    return outputs | boxes_of(grounder, fixture, each[0])
