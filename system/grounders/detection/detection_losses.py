"""Losses of a dense head that scores regions against the words of an expression.

Each is one number a sample, normalised by that sample's own positives: the mean over a batch does
not depend on how the batch is cut. Published detectors divide by the positives of a whole batch.

Legend: B batch, A anchors, T tokens.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from system.results.rec import box_overlap

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sigmoid focal loss, elementwise; `wanted` is 0 or 1 (Lin et al. 2017, arXiv 1708.02002)."""
    plain = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = torch.where(wanted > 0, torch.sigmoid(-logits), torch.sigmoid(logits))
    weight = torch.where(wanted > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    return weight * missed**FOCAL_GAMMA * plain


def word_loss(logits: Tensor, positive: Tensor, words: Tensor, tokens: Tensor) -> Tensor:
    """Focal loss (B,) of region-token scores (GLIP, arXiv 2112.03857, equation 4).

    Args:
        logits: (B, A, T).
        positive: (B, A), the anchors that stand for the object.
        words: (B, T), the tokens that name the object.
        tokens: (B, T), all tokens but the padding.
    """
    wanted = (positive[:, :, None] & words[:, None]).to(logits.dtype)
    loss = focal_loss(logits, wanted) * tokens[:, None]
    return loss.sum(dim=(1, 2)) / positive.sum(dim=1).clamp_min(1)


def centreness(centres: Tensor, boxes: Tensor) -> Tensor:
    """How near centres (..., 2) are to the middle of boxes (..., 4) around them: 0 to 1.

    sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) (FCOS, arXiv 1904.01355, equation 3).
    """
    before, after = centres - boxes[..., :2], boxes[..., 2:] - centres
    ratio = torch.minimum(before, after) / torch.maximum(before, after).clamp_min(1e-6)
    return ratio.clamp_min(0).prod(dim=-1).sqrt()


def box_loss(boxes: Tensor, matched: Tensor, weight: Tensor) -> Tensor:
    """1 - GIoU (B,) of boxes (B, A, 4) with their matched ones, a weighted mean.

    `weight` (B, A) is the centre-ness of positives and 0 elsewhere (ATSS).
    """
    loss = 1 - box_overlap(boxes, matched, "giou")
    return ((loss * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1e-6)).to(boxes.dtype)


def centreness_loss(logits: Tensor, wanted: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy (B,) of centre-ness logits (B, A) at the positives, a mean."""
    loss = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (loss * positive).sum(dim=1) / positive.sum(dim=1).clamp_min(1)
