"""The prompted towers written out with the plain model's own modules: what hooks must equal.

Legend: B batch, L layers entered, N prompt length, D width.
"""

from typing import Any

import torch
from torch import Tensor

from system.backbones.dual_encoder import Deep, Modality


def prompted_features(
    model: Any, modality: Modality, inputs: Tensor, prompt: Tensor, deep: Deep = "add"
) -> Tensor:
    """Features (B, P) of a CLIPModel or SiglipModel under a prompt (B, L, N, D)."""
    clip = model.config.model_type == "clip"
    if modality == "vision":
        tower = model.vision_model
        tokens = _with_prompt(tower.embeddings(inputs), prompt[:, 0], 1 if clip else 0)
        if clip:
            tokens = tower.pre_layrnorm(tokens)
        tokens = _layers(tower, tokens, prompt, 1 if clip else 0, None, deep)
        if clip:
            features: Tensor = model.visual_projection(tower.post_layernorm(tokens[:, 0]))
        else:
            features = tower.head(tower.post_layernorm(tokens))
        return features
    tower = model.text_model
    words = tower.embeddings.token_embedding(inputs)
    first, length = 1 if clip else 0, prompt.shape[2]
    rest = words[:, first + length :]
    words = _with_prompt(torch.cat([words[:, :first], rest], dim=1), prompt[:, 0], first)
    tokens = words + tower.embeddings.position_embedding.weight[: words.shape[1]]
    if not clip:
        tokens = tower.final_layer_norm(_layers(tower, tokens, prompt, first, None, deep))
        features = tower.head(tokens[:, -1])
        return features
    size = tokens.shape[1]
    causal = torch.full((1, 1, size, size), float("-inf")).triu(1)
    tokens = tower.final_layer_norm(_layers(tower, tokens, prompt, first, causal, deep))
    ends = (inputs == model.config.text_config.eos_token_id).int().argmax(dim=1)
    features = model.text_projection(tokens[torch.arange(len(tokens)), ends])
    return features


def _with_prompt(tokens: Tensor, prompt: Tensor, first: int) -> Tensor:
    return torch.cat([tokens[:, :first], prompt, tokens[:, first:]], dim=1)


def _layers(
    tower: Any, tokens: Tensor, prompt: Tensor, first: int, mask: Tensor | None, deep: Deep
) -> Tensor:
    for index, layer in enumerate(tower.encoder.layers):
        if 0 < index < prompt.shape[1]:
            tokens = tokens.clone()
            entered = tokens[:, first : first + prompt.shape[2]]
            entered.mul_(1 if deep == "add" else 0).add_(prompt[:, index])
        tokens = layer(tokens, mask)
    return tokens
