"""Checks of prompts in GLIP's towers, with weights in the published naming.

The towers are the library's Swin and BERT, filled from a synthetic GLIP checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertConfig, BertModel, SwinBackbone, SwinConfig

from system.grounders.bert_prompts import BertPrompts
from system.grounders.swin_prompts import SwinPrompts, WindowEntry
from tests.golden.named_weights import state_dict
from tests.golden.runner import Fixture, check

Outputs = Mapping[str, NDArray[Any]]

#: Parts of GLIP's names for a Swin and the library's.
SWIN_NAMES = {
    "patch_embed.proj": "swin.embeddings.patch_embeddings.projection",
    "patch_embed.norm": "swin.embeddings.norm",
    "layers.": "swin.encoder.layers.",
    ".norm1": ".layernorm_before",
    ".norm2": ".layernorm_after",
    "attn.proj": "attention.o_proj",
    "attn.relative_position_bias_table": (
        "attention.relative_position_bias.relative_position_bias_table"
    ),
}
#: As released; as released, but for one image at a time; right.
RUNS = {
    "released_batch": WindowEntry(tiling="released", relative_bias="released"),
    "released_single": WindowEntry(relative_bias="released"),
    "corrected": WindowEntry(),
}


def _under(prefix: str, weights: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in weights.items()
        if name.startswith(prefix)
    }


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
            out_indices=[1, 2, 3, 4],
        )
    )
    values = {}
    for given, value in _under("backbone.body.", weights).items():
        if given.endswith("relative_position_index"):
            continue
        if given.startswith("norm"):  # of the level that leaves the tower, from the second on
            stage, kind = given.removeprefix("norm").split(".")
            values[f"hidden_states_norms.stage{int(stage) + 1}.{kind}"] = value
            continue
        name = given
        for old, new in SWIN_NAMES.items():
            name = name.replace(old, new)
        if ".attn.qkv" in name:
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                values[name.replace("attn.qkv", f"attention.{part}_proj")] = chunk
            continue
        values[name] = value
    missing, surplus = model.load_state_dict(values, strict=False)
    assert not surplus, surplus
    unused = {"swin.layernorm", "hidden_states_norms.stage1"}
    assert {name.rpartition(".")[0] for name in missing} == unused, missing
    model.hidden_states_norms["stage1"] = nn.Identity()
    return model.eval()


def glip_bert(config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> Any:
    """The library's BERT with GLIP's weights."""
    model: Any = BertModel(BertConfig(**config), add_pooling_layer=False)
    values = _under("language_backbone.body.model.", weights)
    model.load_state_dict({k: v for k, v in values.items() if "position_ids" not in k})
    return model.eval()


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
