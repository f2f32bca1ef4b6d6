"""Adaptive training sample selection (ATSS): which anchors a target box is learned from.

Zhang et al. 2020, "Bridging the gap between anchor-based and anchor-free detection via adaptive
training sample selection", arXiv 1912.02424, algorithm 1.

Legend: B batch, n targets, A anchors. Boxes are left, top, right, bottom, in pixels.
"""

import torch
from torch import Tensor

from system.grounders.detection.anchors import Anchors
from system.results.rec import box_overlap

INSIDE = 0.01  # pixels from a target's side to an anchor's centre within it


def assign(anchors: Anchors, targets: Tensor, present: Tensor, nearest: int) -> Tensor:
    """For each anchor the target (B, A) that it stands for, by index, or -1.

    Args:
        anchors: those of the pyramid.
        targets: (B, n, 4), padded.
        present: (B, n), False where padded.
        nearest: how many anchors of each level are candidates of a target, by centre distance.

    An anchor stands for a target if it is a candidate, its overlap is at least the mean plus the
    standard deviation of the candidates' overlaps, and its centre lies in the target. Of several
    targets it takes the one that it overlaps most.
    """
    if targets.shape[1] == 0:
        return torch.full((len(targets), len(anchors.sides)), -1, device=targets.device)
    overlap = box_overlap(anchors.boxes, targets[:, :, None], "iou")  # (B, n, A)
    middle = (targets[..., :2] + targets[..., 2:]) / 2
    distance = (middle[:, :, None] - anchors.centres).square().sum(dim=-1)  # (B, n, A)
    candidate = torch.zeros_like(distance, dtype=torch.bool)
    first = 0
    for count in anchors.per_level:
        # Stable, so that of equally near anchors every device takes the same ones.
        order = distance[..., first : first + count].argsort(dim=-1, stable=True)
        candidate.scatter_(2, first + order[..., :nearest], True)
        first += count
    candidates = candidate.sum(dim=-1, keepdim=True)
    mean = (overlap * candidate).sum(dim=-1, keepdim=True) / candidates
    spread = ((overlap - mean).square() * candidate).sum(dim=-1, keepdim=True)
    threshold = mean + (spread / (candidates - 1).clamp_min(1)).sqrt()
    x, y = anchors.centres.unbind(dim=-1)
    left, top, right, bottom = (side[..., None] for side in targets.unbind(dim=-1))
    margins = torch.stack([x - left, y - top, right - x, bottom - y])
    inside = margins.amin(dim=0) > INSIDE
    positive = candidate & (overlap >= threshold) & inside & present[..., None]
    best, index = overlap.masked_fill(~positive, -1.0).max(dim=1)  # (B, A)
    return torch.where(best >= 0, index, -1)
