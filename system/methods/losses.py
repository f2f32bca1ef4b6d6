"""Losses of low-rank prompt interaction (LPI, arXiv 2501.14369).

Every loss computes in float32 at least, also inside an autocast region: the temperatures divide by
as little as 0.001, which half precision does not survive.

Legend: B global batch, K tasks, L layers, N prompt length, D features.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from torch import Tensor

from system.errors import ConfigError

EmptyRow = Literal["zero", "nan"]
Similarity = Literal["cosine", "dot"]
#: How often the sigmoid acts in `nt_bxent`: once, or twice as released.
Sigmoid = Literal["single", "double"]


def contrastive_loss(logits: Tensor) -> Tensor:
    """Symmetric contrastive loss of a batch of pairs.

    Args:
        logits: [B, B], images by texts, with the scale already applied; pairs on the diagonal.

    Returns:
        Scalar: the mean of the cross-entropies over rows and over columns.

    Raises:
        ValueError: the logits are not a square matrix.

    Source: CLIP (arXiv 2103.00020, figure 3).
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(
            f"contrastive logits have shape {tuple(logits.shape)}; pass a row and a column a pair"
        )
    logits = _full_precision(logits)
    target = torch.arange(logits.shape[0], device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def nt_bxent(
    x: Tensor,
    target: Tensor,
    temperature: float,
    *,
    sigmoid: Sigmoid = "single",
    empty: EmptyRow = "zero",
) -> Tensor:
    """Binary NT-Xent: rows of `x` whose target is 1 attract each other, the others repel.

    With the logit z = cosine / temperature, an element's loss is the binary cross-entropy of
    sigmoid(z): softplus(-z) where the target is 1, softplus(z) where it is 0. Each row adds the
    mean over its positives, the row itself among them with a loss of 0, and the mean over its
    negatives.

    Args:
        x: [K, D], one vector an element.
        target: [K, K] of 0 and 1 (or bool), ones on the diagonal.
        temperature: divides the cosine similarities; above 0.
        sigmoid: "single", as above; "double", as released: q = sigmoid(z) is itself used as a
            logit, of an element and itself q = 1. An element's loss then lies between 0.31 and 1.31
            whatever x is, and at the released 0.001 no gradient is left.
        empty: what a row without negatives contributes for them: "zero", or "nan" (0 / 0) as
            published.

    Returns:
        Scalar: the mean over rows.

    Raises:
        ConfigError: the temperature is not above 0, or `sigmoid` or `empty` is unknown.

    Source: LPI (arXiv 2501.14369), task contrast.
    """
    if temperature <= 0:
        raise ConfigError(f"task contrast temperature is {temperature}; set it above 0")
    if sigmoid not in ("single", "double"):
        raise ConfigError(f"task contrast sigmoid is {sigmoid!r}; set it to 'single' or 'double'")
    if empty not in ("zero", "nan"):
        raise ConfigError(f"task contrast empty is {empty!r}; set it to 'zero' or 'nan'")
    x = _full_precision(x)
    positive = target.to(x)  # [K, K]
    negative = 1 - positive
    with torch.autocast(x.device.type, enabled=False):
        unit = F.normalize(x, dim=1)
        itself = torch.eye(x.shape[0], dtype=torch.bool, device=x.device)
        logits = unit @ unit.T / temperature
        if sigmoid == "double":
            logits = torch.sigmoid(logits).masked_fill(itself, 1.0)
        # softplus of the logit or of its negative: finite at any temperature
        element = F.softplus((1 - 2 * positive) * logits)
        if sigmoid == "single":
            element = element.masked_fill(itself, 0.0)
        row = _row_mean(element, positive, empty) + _row_mean(element, negative, empty)
        return row.mean()


def layer_alignment(
    vision_prompt: Tensor,
    text_prompt: Tensor,
    *,
    similarity: Similarity = "cosine",
    temperature: float,
) -> Tensor:
    """Symmetric InfoNCE that pairs the same layer of the two modalities' prompts, without a weight.

    Prompts are averaged over their features, which leaves one vector of N entries a layer; the
    features' widths may differ. With a single layer there is nothing to tell apart: the loss is 0.

    Args:
        vision_prompt: [L, N, Dv].
        text_prompt: [L, N, Dt].
        similarity: "cosine": cosine / temperature (published for grounding with 0.01);
            "dot": (a / temperature) (c / temperature)^T (published for retrieval with 0.01).
        temperature: above 0; "dot" divides both sides by it.

    Returns:
        Scalar; the papers multiply it by 0.1.

    Raises:
        ConfigError: an unknown similarity, or a temperature not above 0.
        ValueError: the prompts' layers or lengths differ.

    Source: LPI (arXiv 2501.14369), layer alignment.
    """
    if similarity not in ("cosine", "dot"):
        raise ConfigError(
            f"layer alignment similarity is {similarity!r}; set it to 'cosine' or 'dot'"
        )
    if temperature <= 0:
        raise ConfigError(f"layer alignment temperature is {temperature}; set it above 0")
    if vision_prompt.shape[:2] != text_prompt.shape[:2]:
        raise ValueError(
            f"vision prompt {tuple(vision_prompt.shape)} and text prompt "
            f"{tuple(text_prompt.shape)} must agree in layers and length"
        )
    vision = _full_precision(vision_prompt).mean(dim=2)  # [L, N]
    text = _full_precision(text_prompt).mean(dim=2)  # [L, N]
    with torch.autocast(vision.device.type, enabled=False):
        if similarity == "cosine":
            logits = F.normalize(vision, dim=1) @ F.normalize(text, dim=1).T / temperature
        else:
            logits = (vision / temperature) @ (text / temperature).T
        return contrastive_loss(logits)  # [L, L] in


def attracting(similarity: Tensor, threshold: float, quantile: float | None = None) -> Tensor:
    """Which tasks attract each other: those that are alike by more than a limit.

    Args:
        similarity: [K, K], symmetric.
        threshold: the limit where `quantile` is None.
        quantile: 0 to 1; the limit is this quantile of all pairs' similarities, interpolated
            linearly. The only pair of two tasks lies at the limit and thus repels.

    Returns:
        Bool [K, K], true on the diagonal at any limit.
    """
    # Products of matrices may differ by a rounding from their transposes.
    alike = (similarity + similarity.T) / 2
    # All on the device: a step of training must not wait for a copy from the host.
    limit = torch.full((), threshold, dtype=alike.dtype, device=alike.device)
    if quantile is not None and len(alike) > 1:
        pairs = torch.triu_indices(len(alike), len(alike), offset=1, device=alike.device)
        limit = torch.quantile(alike[pairs[0], pairs[1]], quantile)
    itself = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
    return (alike > limit) | itself


def task_contrast(
    vision_prompts: Tensor,
    text_prompts: Tensor,
    similarity: Tensor,
    *,
    threshold: float,
    quantile: float | None = None,
    temperature: float,
    sigmoid: Sigmoid = "single",
    empty: EmptyRow = "zero",
) -> Tensor:
    """Pull prompts of similar tasks together and push the others apart, without a weight.

    Earlier tasks' prompts are constants: the caller detaches them before stacking.

    Args:
        vision_prompts: [K, ...], the tasks so far, the current one among them.
        text_prompts: [K, ...].
        similarity: [K, K] of the tasks' texts.
        threshold: of `attracting`; the paper uses 0.4.
        quantile: of `attracting`.
        temperature: of `nt_bxent`; above 0.
        sigmoid: of `nt_bxent`.
        empty: of `nt_bxent`.

    Returns:
        Scalar: the mean over the two modalities; the papers multiply it by 0.1.

    Raises:
        ConfigError: see `nt_bxent`.

    Source: LPI (arXiv 2501.14369), task contrast.
    """
    target = attracting(similarity, threshold, quantile)
    vision, text = (
        nt_bxent(
            prompts.flatten(1),
            target.to(prompts.device),
            temperature,
            sigmoid=sigmoid,
            empty=empty,
        )
        for prompts in (vision_prompts, text_prompts)
    )
    return (vision + text) / 2


def _row_mean(element: Tensor, member: Tensor, empty: EmptyRow) -> Tensor:
    """Mean of each row over its members, [K, K] -> [K]; a row without members as `empty` says."""
    count = member.sum(dim=1)
    if empty == "zero":
        count = count.clamp_min(1)
    return (element * member).sum(dim=1) / count


def _full_precision(x: Tensor) -> Tensor:
    """At least float32; double stays double."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
