"""Anchors, ATSS, losses and suppression against their formulas, loops and greedy twins."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.grounders.detection import (
    NO_CANDIDATE,
    Anchors,
    LevelCandidates,
    assign,
    best_boxes,
    box_loss,
    centreness,
    centreness_loss,
    focal_loss,
    pyramid_anchors,
    suppress,
    word_loss,
)
from system.results.rec import box_overlap

SIZES, STRIDES = [(8, 8), (4, 4)], (8, 16)


def _anchors() -> Anchors:
    return pyramid_anchors(SIZES, STRIDES, 3.0, torch.device("cpu"))


def _iou(one: list[float], other: list[float]) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def _by_loops(anchors: Anchors, targets: Tensor, nearest: int) -> list[int]:
    """Zhang et al. 2020, algorithm 1, for one sample."""
    centres, boxes = anchors.centres.tolist(), anchors.boxes.tolist()
    taken, overlap_of = [-1] * len(boxes), [0.0] * len(boxes)
    for number, target in enumerate(targets.tolist()):
        middle = ((target[0] + target[2]) / 2, (target[1] + target[3]) / 2)
        candidates: list[int] = []
        first = 0
        for count in anchors.per_level:
            level = range(first, first + count)
            distance = {
                i: (centres[i][0] - middle[0]) ** 2 + (centres[i][1] - middle[1]) ** 2
                for i in level
            }
            candidates += sorted(level, key=lambda i: distance[i])[:nearest]
            first += count
        overlaps = [_iou(boxes[i], target) for i in candidates]
        threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for i, overlap in zip(candidates, overlaps, strict=True):
            x, y = centres[i]
            margin = min(x - target[0], y - target[1], target[2] - x, target[3] - y)
            better = taken[i] < 0 or overlap > overlap_of[i]
            if overlap >= threshold and margin > 0.01 and better:
                taken[i], overlap_of[i] = number, overlap
    return taken


@st.composite
def _targets(draw: st.DrawFn) -> Tensor:
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        # No round numbers: at equal distances or overlaps either anchor is right.
        left, top = (draw(st.integers(0, 40)) + 0.137 * k for k in (1, 2))
        width, height = (draw(st.integers(4, 30)) + 0.291 * k for k in (1, 2))
        boxes.append([left, top, left + width, top + height])
    return torch.tensor(boxes)


@settings(max_examples=60, deadline=None)
@given(_targets(), st.integers(2, 9))
def test_assignment_is_the_published_algorithm(targets: Tensor, nearest: int) -> None:
    """A wrong anchor learns another object's box."""
    anchors = _anchors()
    present = torch.ones(1, len(targets), dtype=torch.bool)
    found = assign(anchors, targets[None], present, nearest)[0].tolist()
    assert found == _by_loops(anchors, targets, nearest)


def test_padding_is_no_target() -> None:
    """Samples of a batch have different numbers of targets."""
    anchors = _anchors()
    target = torch.tensor([[10.3, 12.1, 33.7, 36.2]])
    padded = torch.cat([target, torch.zeros(1, 4)])[None]
    alone = assign(anchors, target[None], torch.tensor([[True]]), 9)
    assert torch.equal(assign(anchors, padded, torch.tensor([[True, False]]), 9), alone)
    assert (alone >= 0).any()
    nothing = assign(anchors, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.bool), 9)
    assert (nothing == -1).all()


def test_anchors_lie_on_their_places() -> None:
    anchors = _anchors()
    assert anchors.per_level == (64, 16)
    assert anchors.centres[0].tolist() == [4, 4]
    assert anchors.centres[1].tolist() == [12, 4]  # rows first
    assert anchors.boxes[64].tolist() == [8 - 24, 8 - 24, 8 + 24, 8 + 24]


def test_a_box_is_written_from_its_anchor() -> None:
    anchors = _anchors()
    torch.testing.assert_close(anchors.decode(torch.zeros(80, 4)), anchors.boxes)
    logs = torch.tensor([1.0, 2.0, 3.0, 4.0]).log().expand(80, 4)
    assert anchors.decode(logs)[0].tolist() == pytest.approx([4 - 12, 4 - 24, 4 + 36, 4 + 48])
    assert torch.isfinite(anchors.decode(torch.full((80, 4), 1e9))).all()


def _focal(logit: float, wanted: int) -> float:
    chance = 1 / (1 + math.exp(-logit))
    if wanted:
        return -0.25 * (1 - chance) ** 2 * math.log(chance)
    return -0.75 * chance**2 * math.log(1 - chance)


def test_focal_loss_is_the_published_formula() -> None:
    logits = torch.tensor([-3.0, -0.5, 0.0, 1.2, 4.0])
    for wanted in (0, 1):
        expected = [_focal(logit, wanted) for logit in logits.tolist()]
        found = focal_loss(logits, torch.full_like(logits, wanted))
        assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_of_a_sure_and_wrong_score_stays_finite() -> None:
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1.0, 0.0]))
    torch.autograd.backward(loss.sum())
    assert torch.isfinite(loss).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_words_are_wanted_at_positives_alone_and_padding_counts_nothing() -> None:
    """The sum over places and tokens, by the sample's own positives."""
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    positive = torch.tensor([[True, False, True], [False, False, False]])
    words = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    tokens = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    found = word_loss(logits, positive, words, tokens).tolist()
    for sample in range(2):
        total = sum(
            _focal(float(logits[sample, a, t]), int(positive[sample, a] and words[sample, t]))
            for a in range(3)
            for t in range(4)
            if tokens[sample, t]
        )
        count = max(1, int(positive[sample].sum()))
        assert found[sample] == pytest.approx(total / count, rel=1e-4)


def test_centreness_is_one_in_the_middle_and_zero_on_the_side() -> None:
    box = torch.tensor([10.0, 20.0, 30.0, 60.0])
    assert float(centreness(torch.tensor([20.0, 40.0]), box)) == 1
    assert float(centreness(torch.tensor([10.0, 40.0]), box)) == 0
    assert float(centreness(torch.tensor([5.0, 40.0]), box)) == 0
    found = float(centreness(torch.tensor([15.0, 50.0]), box))
    assert found == pytest.approx(math.sqrt(5 / 15 * 10 / 30))


def test_box_loss_is_the_weighted_mean_of_one_minus_giou() -> None:
    """GIoU itself is the one that the evaluation counts hits by."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 5, 15, 15], [40, 40, 50, 50]]])
    matched = torch.tensor([[[0.0, 0, 10, 20], [0, 0, 10, 10], [0, 0, 10, 10]]])
    weight = torch.tensor([[0.5, 1.0, 0.0]])
    giou = box_overlap(boxes, matched, "giou")[0]
    expected = (0.5 * (1 - giou[0]) + (1 - giou[1])) / 1.5
    assert float(giou[0]) == pytest.approx(0.5)
    assert float(box_loss(boxes, matched, weight)) == pytest.approx(float(expected), rel=1e-6)
    assert float(box_loss(boxes, matched, torch.zeros(1, 3))) == 0


def test_box_loss_pulls_a_box_that_does_not_touch_its_target() -> None:
    """IoU alone has no gradient there."""
    boxes = torch.tensor([[[0.0, 0, 4, 4]]], requires_grad=True)
    loss = box_loss(boxes, torch.tensor([[[10.0, 0, 14, 4]]]), torch.ones(1, 1))
    torch.autograd.backward(loss.sum())
    assert boxes.grad is not None
    assert float(boxes.grad[0, 0, 2]) < 0  # the right side is to go right


def test_centreness_loss_is_the_mean_over_positives() -> None:
    logits = torch.tensor([[0.3, -2.0, 5.0]])
    wanted, positive = torch.tensor([[0.7, 0.2, 0.0]]), torch.tensor([[True, True, False]])
    expected = 0.0
    for logit, want in ((0.3, 0.7), (-2.0, 0.2)):
        chance = 1 / (1 + math.exp(-logit))
        expected -= (want * math.log(chance) + (1 - want) * math.log(1 - chance)) / 2
    assert float(centreness_loss(logits, wanted, positive)) == pytest.approx(expected, rel=1e-5)


def _greedy(boxes: Tensor, overlap: float) -> list[bool]:
    kept: list[int] = []
    for i in range(len(boxes)):
        hidden = any(float(box_overlap(boxes[i], boxes[j], "iou")) > overlap for j in kept)
        if not hidden:
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 0.6]))
def test_suppression_keeps_what_the_greedy_loop_keeps(seed: int, overlap: float) -> None:
    """Chains of boxes, each over the next, are what a wrong shortcut gets wrong."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(3, 24, 2, generator=generator) * 0.5
    boxes = torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(3, 24, 2, generator=generator)], -1)
    kept = suppress(boxes, overlap)
    for sample in range(3):
        assert kept[sample].tolist() == _greedy(boxes[sample], overlap)


def test_a_chain_keeps_every_other_box() -> None:
    x = torch.arange(6.0)[:, None] * 5
    boxes = torch.cat([x, torch.zeros(6, 1), x + 10, torch.ones(6, 1)], dim=1)
    assert suppress(boxes[None], 0.3)[0].tolist() == [True, False] * 3


def test_the_best_come_first_and_boxes_without_area_never() -> None:
    boxes = torch.tensor(
        [[[0, 0, 1, 1], [5, 5, 6, 6], [5, 5, 6, 6.1], [3, 3, 3, 9], [8, 8, 9, 9.0]]]
    )
    scores = torch.tensor([[0.2, 0.8, 0.9, 0.99, 0.5]])
    ((found, ranked),) = best_boxes(boxes, scores, candidates=4, overlap=0.5, most=2)
    assert torch.equal(found, boxes[0, [2, 4]])
    assert torch.equal(ranked, scores[0, [2, 4]])
    ((few, _),) = best_boxes(boxes, scores, candidates=2, overlap=0.5, most=9)
    assert len(few) == 1  # of the two candidates one hides the other


def test_candidates_of_each_level_are_its_own_best() -> None:
    """As many of all levels together would all be of the first one."""
    x = torch.arange(6.0)[:, None] * 2
    boxes = torch.cat([x, x, x + 1, x + 1], dim=1)[None]
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.1, 0.2]])
    ((_, ranked),) = best_boxes(boxes, scores, LevelCandidates(1, (4, 2)), 0.5, 9)
    torch.testing.assert_close(ranked, torch.tensor([0.9, 0.2]))
    ((_, ranked),) = best_boxes(boxes, scores, LevelCandidates(9, (4, 2)), 0.5, 9)
    assert len(ranked) == 6
    nothing = best_boxes(boxes, torch.full((1, 6), NO_CANDIDATE), 2, 0.5, 9)
    assert [len(found) for found, _ in nothing] == [0]


def test_of_equal_scores_the_earlier_place_wins() -> None:
    """Else two machines would report different boxes."""
    boxes = torch.tensor([[[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5.0]]])
    ((found, _),) = best_boxes(boxes, torch.full((1, 3), 0.5), 3, 0.5, 3)
    assert torch.equal(found, boxes[0])
