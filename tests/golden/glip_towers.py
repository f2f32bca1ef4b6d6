"""GLIP's towers alone: the library's Swin and BERT, with weights in the published naming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from transformers import BertConfig, BertModel, SwinBackbone, SwinConfig

from system.grounders.glip.published_names import own_tensors

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
