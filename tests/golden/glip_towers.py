"""Checks of prompts in GLIP's towers, with weights in the published naming.

The towers are the library's Swin and BERT, filled from a synthetic GLIP checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from transformers import BertConfig, BertModel, SwinBackbone, SwinConfig

from system.grounders.bert_prompts import BertPrompts
from system.grounders.glip.published_names import own_tensors
from system.grounders.swin_prompts import SwinPrompts, WindowEntry
from tests.golden.named_weights import state_dict
from tests.golden.runner import Fixture, check

Outputs = Mapping[str, NDArray[Any]]

#: As released; as released, but for one image at a time; right.
RUNS = {
    "released_batch": WindowEntry(tiling="released", relative_bias="released"),
    "released_single": WindowEntry(relative_bias="released"),
    "corrected": WindowEntry(),
}


STAGES = (1, 2, 3, 4)


def filled(model: Any, part: str, weights: Mapping[str, NDArray[Any]]) -> Any:
    """One of the network's parts, with the published weights by the product's names."""
    published = {name: torch.from_numpy(value) for name, value in weights.items()}
    shapes = {f"{part}.{name}": value.shape for name, value in model.state_dict().items()}
    values = own_tensors(shapes, published, STAGES)
    model.load_state_dict({name.removeprefix(f"{part}."): value for name, value in values.items()})
    return model.eval()


def glip_swin(config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> Any:
    """The library's Swin of four levels, with GLIP's weights; the finest has no norm."""
    model: Any = SwinBackbone(
        SwinConfig(
            image_size=224,
            embed_dim=config["embed_dim"],
            depths=config["depths"],
            num_heads=config["num_heads"],
            window_size=7,
            drop_path_rate=0.0,
            out_indices=list(STAGES),
        )
    )
    model.swin.layernorm = nn.Identity()  # behind the last stage; no level passes through it
    model.hidden_states_norms["stage1"] = nn.Identity()
    return filled(model, "vision", weights)


def glip_bert(config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> Any:
    """The library's BERT with GLIP's weights."""
    model: Any = BertModel(BertConfig(**config), add_pooling_layer=False)
    return filled(model, "text", weights)


@check("diff_prompt_on_glip")
def _diff_prompt_on_glip(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    weights = state_dict(json.loads(str(fixture["keys_json"])), int(fixture["seed"]))
    inputs = {
        name.removeprefix("in_"): torch.from_numpy(value)
        for name, value in fixture.items()
        if name.startswith("in_")
    }
    outputs: dict[str, NDArray[Any]] = {}
    swin = glip_swin(config, weights)
    blocks = [block for stage in swin.swin.encoder.layers for block in stage.blocks]
    entry = SwinPrompts(blocks)
    prompts = [
        prompt.reshape(len(prompt), -1, block.layernorm_before.normalized_shape[0])
        for prompt, block in zip(inputs["visual_prompts"], blocks, strict=False)
    ]
    with torch.no_grad():
        for run, rules in RUNS.items():
            given = WindowEntry(prompts, rules.tiling, rules.relative_bias)
            with entry.active([], given):
                levels = swin(inputs["images"]).feature_maps
            outputs |= {f"out_{run}_c{i + 2}": level.numpy() for i, level in enumerate(levels)}
        bert, mask = glip_bert(config["bert"], weights), inputs["attention_mask"]
        with BertPrompts(bert.encoder).active(list(inputs["text_prompts"])):
            hidden = bert(inputs["input_ids"], attention_mask=mask).last_hidden_state
    first = fixture["out_text_hidden"].shape[1]
    outputs["out_text_hidden"] = hidden[:, :first].numpy()
    outputs["out_text_embedded"] = (hidden * mask[..., None])[:, :first].numpy()
    return outputs
