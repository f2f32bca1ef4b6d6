"""Assignment of anchors to boxes, and the losses of words, boxes and centreness.

Assignment is ATSS (Zhang et al. 2020, "Bridging the gap between anchor-based and anchor-free
detection via adaptive training sample selection", arXiv 1912.02424, algorithm 1), the losses are
GLIP's (Li et al. 2022, arXiv 2112.03857). All are computed in float32 at least, also inside an
autocast region.

Legend: B batch, A anchors over all levels, n boxes of one image, N of all images, C candidates of a
box, T tokens, P positives of all images. Boxes are left, top, right, bottom in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from system.grounders.glip.box_coder import Anchors, centres, pixel_overlap
from system.results.rec import box_overlap

#: What a sample's terms are divided by: what belongs to its own boxes, or to those of the batch.
Normaliser = Literal["sample", "batch"]

NEAREST = 9  # candidates of a box on each level (ATSS)
INSIDE = 0.01  # pixels from a box's side to the centre of an anchor within it
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
BOX_WEIGHT = 2.0  # of the box loss in the sum
ROUNDING = 1e-9  # overlaps that differ by less are equal


@dataclass(frozen=True)
class Divisors:
    """What the terms of each sample are divided by: (B,), float32, above 0."""

    positives: Tensor
    centreness: Tensor


@dataclass(frozen=True)
class Assignment:
    """What each anchor stands for. It depends on anchors and boxes alone, not on predictions."""

    matched: Tensor  # (B, A), the index of the box among the image's own; -1: none
    boxes: Tensor  # (B, A, 4), that box; any other where there is none
    centreness: Tensor  # (B, A), the anchor's in that box; 0 where there is none
    counts: tuple[int, ...]  # the boxes of each image

    @property
    def positive(self) -> Tensor:
        """The anchors that stand for a box (B, A)."""
        return self.matched >= 0

    def totals(self) -> Tensor:
        """Samples, positives, sum of centreness, and workers, which is 1: (4,), float32.

        The sum of all workers' totals is what `divisors` need of a batch that they share.
        """
        counts = [self.matched.new_tensor(len(self.matched)), self.positive.sum()]
        counts += [self.centreness.sum(), self.matched.new_tensor(1)]
        return torch.stack([count.float() for count in counts])

    def divisors(
        self,
        normaliser: Normaliser = "sample",
        over_workers: Callable[[Tensor], Tensor] = lambda totals: totals,
    ) -> Divisors:
        """What the terms are divided by; the loss of a batch is the mean of its samples' terms.

        "sample": each sample by its own positives, so that the mean does not depend on how a
        batch is cut. "batch": by those of the whole batch, as published: images with many boxes
        weigh more. `over_workers` then gets the `totals` of this part of the batch and returns
        their sum over all workers, so that the mean does not depend on the cut either.
        """
        if normaliser == "sample":
            return Divisors(
                self.positive.sum(dim=1).clamp_min(1).float(), _or_one(self.centreness.sum(dim=1))
            )
        samples, positives, centreness, workers = over_workers(self.totals()).unbind()
        # As published each worker divides by the workers' mean, at least 1.
        divided = (torch.maximum(positives, workers) / samples, _or_one(centreness / samples))
        return Divisors(*(value.expand(len(self.matched)) for value in divided))


def assign(anchors: Anchors, targets: Sequence[Tensor], nearest: int = NEAREST) -> Assignment:
    """Find the anchors that stand for each image's boxes (n, 4); n may be 0.

    A box's candidates are, on each level, the `nearest` anchors by distance of the centres. An
    anchor stands for the box if it is a candidate, its overlap is at least the mean plus the
    standard deviation of the candidates' overlaps, and its centre lies in the box. Of several
    boxes it takes the one that it overlaps most; at equal overlaps the first.
    """
    shape = (len(targets), len(anchors.boxes))
    of_images = [target.reshape(-1, 4).to(anchors.boxes) for target in targets]
    boxes = torch.cat([anchors.boxes[:0], *of_images])  # (N, 4)
    counts = tuple(len(target) for target in targets)
    if len(boxes) == 0:
        nothing = boxes.new_zeros(shape)
        return Assignment((nothing - 1).long(), boxes.new_zeros(*shape, 4), nothing, counts)
    number = torch.arange(len(boxes), device=boxes.device)
    before = torch.tensor([sum(counts[:i]) for i in range(len(counts))], device=boxes.device)
    image = torch.searchsorted(before, number, right=True) - 1  # (N,)
    candidates = _candidates(anchors, boxes, nearest)  # (N, C)
    overlap = pixel_overlap(anchors.boxes[candidates], boxes[:, None])  # (N, C)
    bar = overlap.mean(dim=1, keepdim=True)
    if overlap.shape[1] > 1:
        bar = bar + overlap.std(dim=1, keepdim=True)
    x, y = anchors.centres[candidates].unbind(dim=-1)
    left, top, right, bottom = boxes[:, None].unbind(dim=-1)
    inside = torch.stack([x - left, y - top, right - x, bottom - y]).amin(dim=0) > INSIDE
    # Equal overlaps have no deviation: rounding must not decide about them.
    positive = (overlap >= bar - ROUNDING) & inside
    place = image[:, None] * shape[1] + candidates  # among all images' anchors
    place, overlap = place[positive], overlap[positive]
    number = number[:, None].expand_as(positive)[positive]
    best = overlap.new_full((shape[0] * shape[1],), -1).scatter_reduce(0, place, overlap, "amax")
    number = number.where(overlap == best[place], len(boxes))
    first = number.new_full(best.shape, len(boxes)).scatter_reduce(0, place, number, "amin")
    first = first.reshape(shape)
    found = first < len(boxes)
    box = boxes[first.where(found, 0)]
    matched = (first - before[:, None]).where(found, -1)
    return Assignment(matched, box, centreness(anchors.centres, box) * found, counts)


def detection_losses(
    words: Tensor,
    boxes: Tensor,
    centre_logits: Tensor,
    assignment: Assignment,
    positive_maps: Sequence[Tensor],
    tokens: Tensor,
    divisors: Divisors | None = None,
    background_token: int | None = None,
) -> dict[str, Tensor]:
    """The weighted terms `words`, `boxes` and `centreness`, each (B,), float32.

    A sample without boxes, or without positives, has no loss of boxes and centreness: 0.

    Args:
        words: (B, A, T) logits of regions and tokens.
        boxes: (B, A, 4), decoded.
        centre_logits: (B, A), of centreness.
        assignment: which anchors stand for which boxes.
        positive_maps: for each image (n, T), 1 or true for the tokens that name each box, or (1, T)
            for all of them.
        tokens: (B, T), 1 or true for all tokens but the padding.
        divisors: of `Assignment.divisors`; None: each sample's own.
        background_token: the token that anchors without a box are to have, or None. In GLIP the
            last one of 256; it is padding, and then without effect, unless a caption fills all 256.

    Raises:
        ValueError: an image has neither as many rows of tokens as boxes nor one.
    """
    divisors = assignment.divisors() if divisors is None else divisors
    with torch.autocast(boxes.device.type, enabled=False):
        return {
            "words": _word_loss(words, assignment, positive_maps, tokens.bool(), background_token)
            / divisors.positives,
            "boxes": BOX_WEIGHT * _box_loss(boxes, assignment) / divisors.centreness,
            "centreness": _centreness_loss(centre_logits, assignment) / divisors.positives,
        }


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sigmoid focal loss, elementwise; `wanted` is 0 or 1 (Lin et al. 2017, arXiv 1708.02002)."""
    plain = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = torch.where(wanted > 0, torch.sigmoid(-logits), torch.sigmoid(logits))
    weight = torch.where(wanted > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    return weight * missed**FOCAL_GAMMA * plain


def centreness(middle: Tensor, boxes: Tensor) -> Tensor:
    """Closeness of points (..., 2) to the middle of the boxes (..., 4) around them, 0 to 1.

    sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) (FCOS, arXiv 1904.01355, equation 3); 0 for
    points outside.
    """
    before, after = middle - boxes[..., :2], boxes[..., 2:] - middle
    ratio = torch.minimum(before, after) / torch.maximum(before, after).clamp_min(1e-6)
    return ratio.clamp_min(0).prod(dim=-1).sqrt()


def token_targets(
    assignment: Assignment, positive_maps: Sequence[Tensor], background_token: int | None = None
) -> Tensor:
    """What each anchor's tokens are to be (B, A, T): 0 or 1; see `detection_losses`."""
    targets = []
    for matched, rows, count in zip(
        assignment.matched, positive_maps, assignment.counts, strict=True
    ):
        if len(rows) not in (1, count):
            raise ValueError(f"{len(rows)} rows of tokens for {count} boxes: pass one each, or one")
        none = torch.zeros(1, rows.shape[1], device=rows.device)
        if background_token is not None and background_token < rows.shape[1]:
            none[:, background_token] = 1
        row = matched + 1 if len(rows) == count else (matched >= 0).long()
        targets.append(torch.cat([none, (rows > 0).float()])[row])
    return torch.stack(targets)


def _candidates(anchors: Anchors, boxes: Tensor, nearest: int) -> Tensor:
    """The anchors (N, C) nearest to each box (N, 4) on each level, by index."""
    middle = centres(boxes)[:, None]
    chosen, first = [], 0
    for level in torch.split(anchors.centres, list(anchors.per_level)):
        count = min(nearest, len(level))
        distance = (level - middle).square().sum(dim=-1)  # (N, anchors of the level)
        last = distance.topk(count, largest=False).values.amax(dim=1, keepdim=True)
        # Of equally near ones the first, so that every device takes the same.
        nearer, equal = distance < last, distance == last
        wanted = nearer | (equal & (equal.cumsum(dim=1) <= count - nearer.sum(dim=1, keepdim=True)))
        chosen.append(wanted.nonzero()[:, 1].reshape(len(boxes), count) + first)
        first += len(level)
    return torch.cat(chosen, dim=1)


def _word_loss(
    logits: Tensor,
    assignment: Assignment,
    positive_maps: Sequence[Tensor],
    tokens: Tensor,
    background_token: int | None,
) -> Tensor:
    """Sum (B,) of the focal loss over anchors and tokens (GLIP, equation 4)."""
    if len(logits) == 0:
        return logits.float().sum(dim=(1, 2))
    named = tokens.any(dim=0).nonzero()
    length = int(named[-1]) + 1 if len(named) else 0  # behind it is what no text has: no memory
    maps = [rows[:, :length].to(logits.device) for rows in positive_maps]
    tokens = tokens[:, None, :length]
    # Padding has no loss, and no gradient even if its logits are undefined.
    logits = logits[..., :length].float().masked_fill(~tokens, 0.0)
    loss = focal_loss(logits, token_targets(assignment, maps, background_token)) * tokens
    return loss.sum(dim=(1, 2))


def _box_loss(boxes: Tensor, assignment: Assignment) -> Tensor:
    """Sum (B,) of 1 - GIoU, weighted with the centreness of the anchors (ATSS)."""
    positive = assignment.positive
    # Decoding makes the sides of tiny boxes negative, since it takes a pixel off them.
    begin, end = boxes[positive].float().chunk(2, dim=-1)
    found = torch.cat([begin, torch.maximum(begin, end)], dim=-1)
    loss = 1 - box_overlap(found, assignment.boxes[positive], "giou")  # (P,)
    return _sums(loss * assignment.centreness[positive], positive)


def _centreness_loss(logits: Tensor, assignment: Assignment) -> Tensor:
    """Sum (B,) of the binary cross-entropy at the positives."""
    positive = assignment.positive
    loss = binary_cross_entropy_with_logits(
        logits[positive].float(), assignment.centreness[positive], reduction="none"
    )
    return _sums(loss, positive)


def _sums(values: Tensor, positive: Tensor) -> Tensor:
    """Each image's sum (B,), float32, of the values (P,) of the positives (B, A)."""
    spread = values.new_zeros(positive.shape).masked_scatter(positive, values)
    return spread.sum(dim=1).float()


def _or_one(values: Tensor) -> Tensor:
    """The values, and 1 in the place of 0, where what is divided is 0 too."""
    return values.where(values > 0, 1.0)
