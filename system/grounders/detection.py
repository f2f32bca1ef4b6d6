"""Dense detection: anchors, assignment to targets, losses, non-maximum suppression.

Assignment is ATSS (Zhang et al. 2020, "Bridging the gap between anchor-based and anchor-free
detection via adaptive training sample selection", arXiv 1912.02424, algorithm 1). Each loss is one
value per sample, normalised by that sample's own positives: the mean over a batch does not depend
on how the batch is cut. Published detectors divide by the positives of a whole batch.

Legend: B batch, A anchors over all levels, n targets, T tokens, K candidates. Boxes are left, top,
right, bottom, in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from system.results.rec import box_overlap

MOST_LOG = 8.0  # e^8 half sides is beyond any image: keeps exp from overflowing
INSIDE = 0.01  # pixels from a target's side to an anchor's centre within it
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
NO_CANDIDATE = -1.0  # a score below all that a box can have


@dataclass(frozen=True)
class Anchors:
    """Squares of side `sides` around `centres`, level after level, row after row."""

    centres: Tensor  # (A, 2): x, y
    sides: Tensor  # (A,)
    per_level: tuple[int, ...]

    @property
    def boxes(self) -> Tensor:
        """The squares (A, 4)."""
        half = self.sides[:, None] / 2
        return torch.cat([self.centres - half, self.centres + half], dim=1)

    def decode(self, distances: Tensor) -> Tensor:
        """Boxes (..., A, 4) from distances of centre to the sides, as logs of half a side.

        All zeros are the anchors themselves.
        """
        reach = distances.clamp(max=MOST_LOG).exp() * (self.sides[:, None] / 2)
        return torch.cat([self.centres - reach[..., :2], self.centres + reach[..., 2:]], dim=-1)


def pyramid_anchors(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], scale: float, device: torch.device
) -> Anchors:
    """Anchors of levels of `sizes` (H, W) and strides in pixels; sides are `scale` strides."""
    centres, sides = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = (torch.arange(height, device=device) + 0.5) * stride
        x = (torch.arange(width, device=device) + 0.5) * stride
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([columns, rows], dim=-1).reshape(-1, 2))
        sides.append(torch.full((height * width,), scale * stride, device=device))
    return Anchors(torch.cat(centres), torch.cat(sides), tuple(len(level) for level in sides))


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
    squares = ((overlap - mean).square() * candidate).sum(dim=-1, keepdim=True)
    threshold = mean + (squares / (candidates - 1).clamp_min(1)).sqrt()
    x, y = anchors.centres.unbind(dim=-1)
    left, top, right, bottom = (side[..., None] for side in targets.unbind(dim=-1))
    margins = torch.stack([x - left, y - top, right - x, bottom - y])
    inside = margins.amin(dim=0) > INSIDE
    positive = candidate & (overlap >= threshold) & inside & present[..., None]
    best, index = overlap.masked_fill(~positive, -1.0).max(dim=1)  # (B, A)
    return torch.where(best >= 0, index, -1)


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
    """Closeness of centres (..., 2) to the middle of the boxes (..., 4) around them, 0 to 1.

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


def suppress(boxes: Tensor, overlap: float) -> Tensor:
    """Mask (B, K) of the boxes (B, K, 4), best first, that greedy suppression keeps.

    A box goes if a better one that stays overlaps it by more than `overlap`. The rule is put to
    all boxes at once until nothing changes: the result is the greedy one, since the first box is
    right from the start and each round settles at least the next.
    """
    later = torch.ones(boxes.shape[1], boxes.shape[1], dtype=torch.bool, device=boxes.device)
    hides = (box_overlap(boxes[:, :, None], boxes[:, None], "iou") > overlap) & later.triu(1)
    kept = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    while True:
        settled = ~(hides & kept[:, :, None]).any(dim=1)
        if torch.equal(settled, kept):
            return kept
        kept = settled


@dataclass(frozen=True)
class LevelCandidates:
    """The best `count` boxes of each level; `per_level` are the levels' sizes."""

    count: int
    per_level: tuple[int, ...]


def best_boxes(
    boxes: Tensor, scores: Tensor, candidates: int | LevelCandidates, overlap: float, most: int
) -> list[tuple[Tensor, Tensor]]:
    """Each sample's boxes (k, 4) and scores (k,), best first, from (B, A, 4) and (B, A).

    Of the best boxes, `candidates` of all levels together or of each, those that suppression keeps,
    at most `most`. Boxes without area, and those with a score below 0, are none.
    """
    area = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1)
    scores = scores.masked_fill(area <= 0, NO_CANDIDATE)
    if isinstance(candidates, LevelCandidates):
        levels = torch.split(scores, list(candidates.per_level), dim=1)
        scores = torch.cat([_best(level, candidates.count) for level in levels], dim=1)
        candidates = scores.shape[1]
    # Stable: of equal scores the earlier anchor is the better one, on every device.
    ranked, order = scores.sort(dim=1, descending=True, stable=True)
    found = []
    for box, score, places in zip(
        boxes, ranked[:, :candidates], order[:, :candidates], strict=True
    ):
        # One by one: suppression compares all with all, and with a threshold few are left.
        score = score[score >= 0]
        box = box[places[: len(score)]]
        kept = suppress(box[None], overlap)[0]
        found.append((box[kept][:most], score[kept][:most]))
    return found


def _best(scores: Tensor, count: int) -> Tensor:
    """Scores (B, A) of which all but the `count` best of a sample are no candidates any more."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return scores.scatter(1, order[:, count:], NO_CANDIDATE)
