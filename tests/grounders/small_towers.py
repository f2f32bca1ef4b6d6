"""A small Swin of two stages and a small BERT, as `transformers` makes them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertModel, SwinBackbone, SwinConfig

WINDOW = 4


def swin() -> Any:
    """Two stages; 10 tokens a side do not divide into windows of 4, so padding is at work."""
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=40,
        patch_size=4,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=WINDOW,
        out_indices=[1, 2],
    )
    model = SwinBackbone(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "bias_table" in name:  # zero in a fresh model, which would hide a wrong bias
            parameter.normal_()
        elif "attention" in name and parameter.ndim == 2:  # a fresh one hardly mixes tokens
            parameter.mul_(10)
    return model


def blocks(model: Any) -> list[Any]:
    return [block for stage in model.swin.encoder.layers for block in stage.blocks]


def bert() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
    )
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
