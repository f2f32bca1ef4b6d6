"""Referring-expression comprehension: does one of the k best boxes hit the object that is meant?

Legend: Q queries, K boxes a query. Boxes are left, top, right, bottom, in pixels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from system.results.metrics import Overlap

HIT = 0.5  # the overlap from which a box counts, unless it is said otherwise


def box_overlap(first: Tensor, second: Tensor, measure: Overlap) -> Tensor:
    """Overlap (...) of boxes [..., 4] that broadcast against each other.

    "iou" is intersection over union, in [0, 1]; "giou" also subtracts the part of the smallest
    enclosing box that neither covers, so it is in [-1, 1] and never above "iou" (arXiv 1902.09630).
    Boxes without area overlap with nothing: 0.
    """
    a, b = first.double(), second.double()
    overlap = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - overlap
    iou = _ratio(overlap, union)
    if measure == "iou":
        return iou
    enclosing = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return iou - _ratio(enclosing - union, enclosing)


def best_hits(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    target: Sequence[Tensor] | Tensor,
    measure: Overlap,
    least: float = HIT,
) -> Tensor:
    """For each query the rank (Q,), from 0, of its best scored box that hits; -1 if none does.

    Args:
        boxes: Q tensors [K, 4]; K may differ, and be 0.
        scores: Q tensors [K]. Of equal scores the earlier box is the better one.
        target: Q tensors [4], the box of the object that is meant, or [n, 4], boxes of which any
            is enough.
        measure: "iou" (the field's rule) or "giou" (as the papers' released code counts).
        least: the overlap from which a box hits.

    Raises:
        ValueError: the three do not hold the same number of queries.
    """
    if not len(boxes) == len(scores) == len(target):
        raise ValueError(f"{len(boxes)} boxes, {len(scores)} scores, {len(target)} targets differ")
    if not len(target):
        return torch.zeros(0, dtype=torch.long)
    # All queries at once, filled up with boxes of the lowest score and targets that do not count.
    found, _ = _filled([each.reshape(-1, 4) for each in boxes])  # (Q, K, 4)
    score, real = _filled(scores)  # (Q, K)
    meant, counts = _filled([each.reshape(-1, 4) for each in target])  # (Q, n, 4), (Q, n)
    order = score.where(real, -math.inf).argsort(dim=1, descending=True, stable=True)
    found = found.gather(1, order[..., None].expand(-1, -1, 4))
    overlap = box_overlap(found[:, :, None], meant[:, None], measure)  # (Q, K, n)
    hit = ((overlap >= least) & counts[:, None]).any(dim=2) & real.gather(1, order)
    return hit.int().argmax(dim=1).where(hit.any(dim=1), -1)


def rec_recall(ranks: Tensor, ks: Sequence[int | None]) -> dict[int | None, float]:
    """Share of queries with a hit among the k best boxes; k = None: among all (the upper bound).

    NaN without queries, where a recall is not defined.
    """
    hit = ranks >= 0
    return {
        k: float((hit if k is None else hit & (ranks < k)).double().mean())
        if len(ranks)
        else float("nan")
        for k in ks
    }


def _filled(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Q tensors (k, ...) with zeros behind: (Q, K, ...), K at least 1; which are real: (Q, K)."""
    filled = pad_sequence([*rows, rows[0].new_zeros(1, *rows[0].shape[1:])], batch_first=True)[:-1]
    lengths = torch.tensor([len(row) for row in rows])
    return filled, torch.arange(filled.shape[1]) < lengths[:, None]


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp_min(0).prod(dim=-1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.where(whole > 0, torch.ones_like(whole)), 0.0)
