"""LPI's training step on CLIP in plain PyTorch, as one writes it first: the competitor of ours.

The first task of a stream at the default settings: low-rank prompts added in every layer of both
towers, the contrastive loss and the layer alignment. No workers, no checks, no checkpoints. It
needs neither Ray nor pyarrow.

Legend: B batch, L layers, N prompt length, R rank, D width, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

TOWERS = ("vision", "text")
BEGIN, END = 49406, 49407  # of CLIP's vocabulary


def plain_factors(
    clip: Any, *, rank: int = 4, length: int = 16, std: float = 0.5
) -> dict[str, Tensor]:
    """LPI's factors of one task, under our names: layer (L, R), position (N, R), feature (D, R)."""
    vision, text = clip.config.vision_config, clip.config.text_config
    rows = {"layer": vision.num_hidden_layers}
    rows |= {f"position.{tower}": length for tower in TOWERS}
    rows |= {"feature.vision": vision.hidden_size, "feature.text": text.hidden_size}
    device = next(clip.parameters()).device
    return {
        name: (std * torch.randn(count, rank, device=device)).requires_grad_()
        for name, count in rows.items()
    }


def plain_step(
    clip: Any,
    factors: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    pixels: Tensor,
    ids: Tensor,
    bound: float | None = None,
) -> Tensor:
    """One step on images (B, 3, H, W) and ids (B, T) with N placeholders; the loss, on the device.

    `bound` is the most that the gradient may have.
    """

    def encoded(tower: Any, tokens: Tensor, prompts: Tensor, causal: bool) -> Tensor:
        for index, layer in enumerate(tower.encoder.layers):
            if index:
                first, entered, rest = tokens.tensor_split((1, 1 + length), 1)
                tokens = torch.cat([first, entered + prompts[index], rest], 1)
            tokens = layer(tokens, None, is_causal=causal)
        return tokens

    length, rank = factors["position.vision"].shape
    vision, text = (
        torch.einsum(
            "lk,nk,dk->lnd",
            factors["layer"],
            factors[f"position.{tower}"],
            factors[f"feature.{tower}"],
        )
        / rank
        for tower in TOWERS
    )  # (L, N, D)
    many = len(pixels)
    optimiser.zero_grad()

    tokens = clip.vision_model.embeddings(pixels)
    tokens = torch.cat([tokens[:, :1], vision[0].expand(many, -1, -1), tokens[:, 1:]], 1)
    tokens = encoded(clip.vision_model, clip.vision_model.pre_layrnorm(tokens), vision, False)
    image = clip.visual_projection(clip.vision_model.post_layernorm(tokens[:, 0]))

    embeddings = clip.text_model.embeddings
    tokens = embeddings.token_embedding(ids)
    tokens = torch.cat([tokens[:, :1], text[0].expand(many, -1, -1), tokens[:, 1 + length :]], 1)
    tokens = tokens + embeddings.position_embedding.weight[: ids.shape[1]]
    tokens = clip.text_model.final_layer_norm(encoded(clip.text_model, tokens, text, True))
    end = ids.argmax(1)  # of CLIP's ids the end token is the largest
    caption = clip.text_projection(tokens[torch.arange(many, device=ids.device), end])

    logits = clip.logit_scale.exp() * F.normalize(image) @ F.normalize(caption).T
    pairs = F.normalize(vision.mean(2)) @ F.normalize(text.mean(2)).T / 0.01
    loss = contrast(logits) + 0.1 * contrast(pairs)
    torch.autograd.backward(loss)
    if bound is not None:
        torch.nn.utils.clip_grad_norm_(list(factors.values()), bound)
    optimiser.step()
    return loss.detach()


def contrast(logits: Tensor) -> Tensor:
    """The mean of the cross-entropies over rows and over columns, pairs on the diagonal."""
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def plain_vit_b16(layers: int = 12) -> Any:
    """A CLIP of ViT-B/16's sizes with random weights, frozen; of fewer layers to try things out."""
    tower = {"num_hidden_layers": layers}
    config = CLIPConfig(
        vision_config={
            **tower,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "patch_size": 16,
        },
        text_config={**tower, "bos_token_id": BEGIN, "eos_token_id": END},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPModel(config).eval().requires_grad_(False)


def plain_batch(
    clip: Any, batch: int, *, words: int = 12, length: int = 16, context: int | None = None
) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, H, W) and captions (B, T) of so many words, with N placeholders.

    T is `context`, or all of the model's.
    """
    vision, text = clip.config.vision_config, clip.config.text_config
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch, 3, vision.image_size, vision.image_size, generator=generator)
    ids = torch.full((batch, context or text.max_position_embeddings), text.eos_token_id)
    ids[:, : 1 + length] = text.bos_token_id
    drawn = torch.randint(2, text.bos_token_id, (batch, words), generator=generator)
    ids[:, 1 + length : 1 + length + words] = drawn
    device = next(clip.parameters()).device
    return pixels.to(device), ids.to(device)


def in_turn(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least seconds of each step, run in turn, so that what else runs meets all alike."""
    from time import perf_counter

    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            started = perf_counter()
            step()
            best[name] = min(best[name], perf_counter() - started)
    return best
