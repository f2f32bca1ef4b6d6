"""Selection of boxes by score and by greedy suppression, as ATSS and GLIP do it.

Zhang et al. 2020, arXiv 1912.02424; Li et al. 2022, arXiv 2112.03857.

Legend: B batch, A anchors over all levels, L labels (phrases of an image), T tokens, K boxes of one
image. Boxes are left, top, right, bottom in pixels; their last pixels are part of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from system.grounders.glip.box_coder import pixel_overlap

NO_CANDIDATE = -1.0  # below all that a probability can be
BLOCK = 256  # boxes that suppression compares at a time: it bounds memory, never the result


@dataclass(frozen=True)
class SelectionRules:
    """Which boxes are handed on; the defaults are those of GLIP's published configurations.

    Candidates have a mean probability of words above `threshold`; 0 is no threshold. Of them enter
    the best `candidates_per_level` of each level, or, with None, the best `candidates` of all
    levels together. A box goes if a better one of its label that stays overlaps it by more than
    `overlap`. Of the others the best `most` are handed on, and those equal to the last of them.
    """

    threshold: float = 0.05
    candidates_per_level: int | None = 1000
    candidates: int = 1000
    overlap: float = 0.6
    most: int = 100

    def __post_init__(self) -> None:
        for name in ("threshold", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be from 0 to 1")
        for name in ("candidates_per_level", "candidates", "most"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name}={count} must be at least 1")


@dataclass(frozen=True)
class SelectedBoxes:
    """The boxes of one image, best first."""

    boxes: Tensor  # (K, 4)
    scores: Tensor  # (K,), float32
    labels: Tensor  # (K,), from 0


def label_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean probability (B, A, L), float32, of each label's tokens; -1 for a label without tokens.

    Args:
        logits: (B, A, T), of regions and tokens.
        tokens: (B, L, T), true or 1 for the tokens of a label.
    """
    probabilities, tokens = logits.float().sigmoid(), tokens.bool()
    count = tokens.sum(dim=-1)  # (B, L)
    named = probabilities.new_empty(*logits.shape[:2], tokens.shape[1])
    # One by one and no matrix product: that would round as autocast or TF32 have it.
    for label, own in enumerate(tokens.unbind(dim=1)):
        total = torch.where(own[:, None], probabilities, 0.0).sum(dim=-1)
        named[..., label] = total / count[:, label, None].clamp_min(1)
    return named.masked_fill(count[:, None] == 0, NO_CANDIDATE)


@torch.no_grad()
def select_boxes(
    boxes: Tensor,
    named: Tensor,
    centreness: Tensor,
    per_level: Sequence[int],
    sizes: Sequence[tuple[int, int]] | Tensor,
    rules: SelectionRules,
) -> list[SelectedBoxes]:
    """Each image's boxes by falling score, clipped to the image; of equal ones the earlier first.

    A score is the square root of the label's mean probability times the box's centreness. Boxes
    that clipping leaves one pixel of stay, as published. Each image is selected by itself: its
    boxes do not depend on the others in the batch.

    Args:
        boxes: (B, A, 4), decoded.
        named: (B, A, L), from `label_probabilities`; below 0: no candidate.
        centreness: (B, A) logits.
        per_level: how many of the A anchors each level has.
        sizes: height and width of each image in pixels, without padding: B pairs or (B, 2).
        rules: which boxes are handed on.
    """
    labels = named.shape[-1]
    named = named.float()
    # In float32 a place's sigmoid depends by a rounding on where in memory it stands.
    rank = named * centreness.double().sigmoid().float()[..., None]
    candidate = named > rules.threshold if rules.threshold else named >= 0
    # The comparison with 0 leaves out what is no number too.
    rank = torch.where(candidate & (rank >= 0), rank, NO_CANDIDATE).flatten(1)  # (B, A * L)
    rank, order = _ranked(rank, [count * labels for count in per_level], rules)
    counts = (rank >= 0).sum(dim=1).tolist()
    found = []
    for image, (count, (height, width)) in enumerate(zip(counts, _pairs(sizes), strict=True)):
        scores, places = rank[image, :count].sqrt(), order[image, :count]
        candidates = clip_boxes(boxes[image, places // labels].float(), height, width)
        of_label = places % labels
        kept = suppress(candidates, of_label, rules.overlap, scores, rules.most)
        found.append(SelectedBoxes(candidates[kept], scores[kept], of_label[kept]))
    return found


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (..., 4) with their corners moved into an image of that size."""
    limit = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return boxes.clamp_min(0).minimum(limit)


def resize_boxes(boxes: Tensor, size: tuple[float, float], to: tuple[float, float]) -> Tensor:
    """Boxes (..., 4) in an image of `size` (height, width), once that is resized `to` another.

    `to` (1, 1) gives shares of the sides.
    """
    height, width = to[0] / size[0], to[1] / size[1]
    return boxes * boxes.new_tensor([width, height, width, height])


def suppress(
    boxes: Tensor, labels: Tensor, overlap: float, scores: Tensor, most: int | None = None
) -> Tensor:
    """Indices (k,), rising, of the boxes (K, 4), best first, that greedy suppression keeps.

    A box goes if a better one of its label (K,) that stays overlaps it by more than `overlap`. With
    `most`, those below the `most`-th best score of what stays go too: at equal scores more stay.
    """
    kept = labels.new_zeros(0)
    for first in range(0, len(boxes), BLOCK):
        if most is not None and len(kept) >= most and scores[first] < scores[kept[most - 1]]:
            break  # what follows is no better
        block = torch.arange(first, min(first + BLOCK, len(boxes)), device=boxes.device)
        if len(kept):
            block = block[~_hides(boxes, labels, kept, block, overlap).any(dim=0)]
        kept = torch.cat([kept, block[_stays(boxes, labels, block, overlap)]])
    if most is None or len(kept) <= most:
        return kept
    return kept[scores[kept] >= scores[kept[most - 1]]]


def _hides(boxes: Tensor, labels: Tensor, better: Tensor, worse: Tensor, overlap: float) -> Tensor:
    """Which boxes by index hide which others if they stay: (better, worse)."""
    over = pixel_overlap(boxes[better][:, None], boxes[worse]) > overlap
    return over & (labels[better][:, None] == labels[worse])


def _stays(boxes: Tensor, labels: Tensor, block: Tensor, overlap: float) -> Tensor:
    """Which boxes of a block greedy suppression keeps, if nothing but they hide each other.

    The rule is put to all boxes at once until nothing changes: the result is the greedy one, since
    the first box is right from the start and each round settles at least the next.
    """
    hides = _hides(boxes, labels, block, block, overlap).triu(1)
    stays = torch.ones(len(block), dtype=torch.bool, device=boxes.device)
    while True:
        settled = ~(hides & stays[:, None]).any(dim=0)
        if torch.equal(settled, stays):
            return stays
        stays = settled


def _ranked(rank: Tensor, per_level: Sequence[int], rules: SelectionRules) -> tuple[Tensor, Tensor]:
    """The candidates' ranks and places (B, K), best first, of ranks (B, all places)."""
    each = rules.candidates_per_level
    levels = [rank.shape[1]] if each is None else list(per_level)
    count = rules.candidates if each is None else each
    values, places, first = [], [], 0
    for level in torch.split(rank, levels, dim=1):
        # Stable: of equal ranks the earlier place is the better one, on every device.
        ordered, order = level.sort(dim=1, descending=True, stable=True)
        values.append(ordered[:, :count])
        places.append(order[:, :count] + first)
        first += level.shape[1]
    ordered, order = torch.cat(values, dim=1).sort(dim=1, descending=True, stable=True)
    return ordered, torch.cat(places, dim=1).gather(1, order)


def _pairs(sizes: Sequence[tuple[int, int]] | Tensor) -> list[tuple[int, int]]:
    rows = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return [(int(height), int(width)) for height, width in rows]
