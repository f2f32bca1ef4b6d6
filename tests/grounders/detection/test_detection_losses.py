"""The losses of the dense head against their formulas, number by number."""

import math

import pytest
import torch

from system.grounders.detection.detection_losses import (
    box_loss,
    centreness,
    centreness_loss,
    focal_loss,
    word_loss,
)
from system.results.rec import box_overlap


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
