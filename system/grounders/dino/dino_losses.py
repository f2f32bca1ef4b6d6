"""Grounding DINO's own matching loss, made for each sample of a batch by itself.

The library's loss divides by the boxes of the whole batch, which ties a sample's loss to the
samples that it happens to stand beside.

Legend: B batch, Q queries, T tokens, S stages of the decoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

CLASS_WEIGHT = 2.0  # of the focal loss; the library has it in its code, the others in its config


def sample_losses(
    logits: Tensor,
    labels: Sequence[Mapping[str, Tensor]],
    device: torch.device,
    pred_boxes: Tensor,
    config: Any,
    label_maps: Sequence[Tensor],
    text_mask: Tensor,
    outputs_class: Tensor,
    outputs_coord: Tensor,
    encoder_logits: Tensor,
    encoder_pred_boxes: Tensor,
    positive: Tensor | None = None,
) -> tuple[None, dict[str, Tensor], None]:
    """Replacement of the model's `loss_function`: its terms (B,) by name, no total.

    Args as the library's: logits (B, Q, T), boxes (B, Q, 4), those of all stages (S, B, Q, ...).
    `positive` (B, t), t <= T, are the tokens that name the object; None: all of the phrase.
    """
    from transformers.loss.loss_grounding_dino import GroundingDinoForObjectDetectionLoss

    if not bool(torch.isfinite(pred_boxes).all()):
        # The library would raise here, about corners of boxes: the caller's message is clearer.
        undefined = pred_boxes.flatten(1).sum(dim=1)
        return None, dict.fromkeys(("loss_ce", "loss_bbox", "loss_giou"), undefined), None
    if positive is not None:
        label_maps = [
            _filled_up(words[None], of_all)
            for words, of_all in zip(positive, label_maps, strict=True)
        ]
    rows: list[dict[str, Tensor]] = []
    for index in range(len(labels)):
        one = slice(index, index + 1)
        _, terms, _ = GroundingDinoForObjectDetectionLoss(
            logits[one],
            list(labels[one]),
            device,
            pred_boxes[one],
            config,
            label_maps[one],
            text_mask[one],
            outputs_class=outputs_class[:, one],
            outputs_coord=outputs_coord[:, one],
            encoder_logits=encoder_logits[one],
            encoder_pred_boxes=encoder_pred_boxes[one],
        )
        rows.append(terms)
    return None, {name: torch.stack([row[name] for row in rows]) for name in rows[0]}, None


def _filled_up(words: Tensor, like: Tensor) -> Tensor:
    """The one label's tokens (1, t) as the library has them: (1, T), of its type."""
    if not words.any():
        # The library's matching divides by their number: all words guide it, and as its targets are
        # whole numbers, none of them is one.
        return like[:1] / 2
    label = torch.zeros_like(like[:1])
    label[:, : words.shape[1]] = words.to(like)
    return label


def loss_terms(terms: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The weighted sums (B,) of classes, boxes and overlaps over encoder and decoder stages."""
    weights = {
        "loss_ce": CLASS_WEIGHT,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }
    return {
        name.removeprefix("loss_"): torch.stack(
            [value for key, value in terms.items() if key.startswith(name)]
        ).sum(dim=0)
        * weight
        for name, weight in weights.items()
    }
