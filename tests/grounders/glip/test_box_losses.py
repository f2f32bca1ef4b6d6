"""Assignment against the published algorithm in loops, losses against their formulas."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.grounders.glip.box_coder import Anchors, pixel_overlap, pyramid_anchors
from system.grounders.glip.box_losses import (
    Assignment,
    assign,
    centreness,
    detection_losses,
    focal_loss,
    token_targets,
)
from system.results.rec import box_overlap

CPU = torch.device("cpu")
TOKENS = 6


def _anchors(scale: float = 3.0) -> Anchors:
    return pyramid_anchors([(8, 8), (4, 4)], (8, 16), scale, CPU)


def _by_loops(anchors: Anchors, targets: Tensor, nearest: int) -> list[int]:
    """Zhang et al. 2020, algorithm 1, for one image."""
    middles, boxes = anchors.centres.tolist(), anchors.boxes
    matched, overlap_of = [-1] * len(boxes), [0.0] * len(boxes)
    for number, target in enumerate(targets):
        left, top, right, bottom = target.tolist()
        middle = ((left + right) / 2, (top + bottom) / 2)
        candidates: list[int] = []
        first = 0
        for count in anchors.per_level:
            level = range(first, first + count)
            candidates += sorted(level, key=lambda i: math.dist(middles[i], middle))[:nearest]
            first += count
        overlaps = pixel_overlap(boxes[candidates], target).tolist()
        bar = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for i, overlap in zip(candidates, overlaps, strict=True):
            x, y = middles[i]
            margin = min(x - left, y - top, right - x, bottom - y)
            if overlap >= bar and margin > 0.01 and (matched[i] < 0 or overlap > overlap_of[i]):
                matched[i], overlap_of[i] = number, overlap
    return matched


@st.composite
def _targets(draw: st.DrawFn, least: int = 1) -> Tensor:
    boxes = []
    for _ in range(draw(st.integers(least, 3))):
        # No round numbers: at equal distances or overlaps either anchor is right.
        left, top = (draw(st.integers(0, 40)) + 0.137 * k for k in (1, 2))
        width, height = (draw(st.integers(4, 30)) + 0.291 * k for k in (1, 2))
        boxes.append([left, top, left + width, top + height])
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(_targets(least=0), min_size=1, max_size=3), st.integers(2, 9))
def test_assignment_is_the_published_algorithm(targets: list[Tensor], nearest: int) -> None:
    """A wrong anchor learns another object's box; images have 0 to 3 of them here."""
    anchors = _anchors()
    found = assign(anchors, targets, nearest)
    for image, own in enumerate(targets):
        expected = _by_loops(anchors, own, nearest)
        assert found.matched[image].tolist() == expected
        for anchor, box in enumerate(expected):
            middle = float(centreness(anchors.centres[anchor], own[box])) if box >= 0 else 0.0
            assert float(found.centreness[image, anchor]) == pytest.approx(middle, abs=1e-6)
            if box >= 0:
                assert torch.equal(found.boxes[image, anchor], own[box])


def test_of_equally_near_anchors_the_first_are_candidates() -> None:
    """Else two devices would train on different anchors: boxes often lie between two places."""
    anchors = pyramid_anchors([(4, 4)], (8,), 1.0, CPU)
    box = torch.tensor([[0.0, 0.0, 31.0, 31.0]])  # four anchors are as near to its middle
    assert assign(anchors, [box], 2).positive[0].nonzero()[:, 0].tolist() == [5, 6]


def test_equal_overlaps_are_all_positive() -> None:
    """Their mean is each of them, but for a rounding that must not decide."""
    anchors = pyramid_anchors([(9, 9)], (8,), 7.0, CPU)
    box = torch.tensor([[20.1, 20.2, 48.3, 48.4]])  # the anchors around it hold all of it
    assert int(assign(anchors, [box], 9).positive.sum()) == 9


def test_one_candidate_alone_is_enough() -> None:
    """The deviation of one number is not defined, but it may be the object's only place."""
    anchors = pyramid_anchors([(1, 1)], (8,), 2.0, CPU)
    assert assign(anchors, [torch.tensor([[0.0, 0.0, 9.0, 9.0]])]).matched.tolist() == [[0]]


def test_of_two_boxes_in_one_place_the_first_has_the_anchors() -> None:
    """Two phrases may name one object."""
    box = torch.tensor([[10.3, 12.1, 33.7, 36.2]])
    once, twice = (assign(_anchors(), [box.expand(count, 4)]) for count in (1, 2))
    assert bool(once.positive.any())
    assert torch.equal(once.matched, twice.matched)


def test_anchors_learn_the_box_that_they_overlap_most() -> None:
    boxes = torch.tensor([[10.3, 12.1, 33.7, 36.2], [13.3, 13.1, 37.7, 38.2]])
    anchors = _anchors()
    found = assign(anchors, [boxes])
    alone = [assign(anchors, [box[None]]).positive for box in boxes]
    contested = (alone[0] & alone[1])[0]
    assert bool(contested.any())
    overlap = pixel_overlap(anchors.boxes[:, None], boxes)
    assert torch.equal(found.matched[0, contested], overlap[contested].argmax(dim=1))


def test_centreness_is_one_in_the_middle_and_zero_on_the_side() -> None:
    box = torch.tensor([10.0, 20.0, 30.0, 60.0])
    assert float(centreness(torch.tensor([20.0, 40.0]), box)) == 1
    assert float(centreness(torch.tensor([10.0, 40.0]), box)) == 0
    assert float(centreness(torch.tensor([5.0, 40.0]), box)) == 0
    found = float(centreness(torch.tensor([15.0, 50.0]), box))
    assert found == pytest.approx(math.sqrt(5 / 15 * 10 / 30))


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
    """GLIP's logits go up to 50,000."""
    logits = torch.tensor([-50_000.0, 50_000.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1.0, 0.0]))
    torch.autograd.backward(loss.sum())
    assert torch.isfinite(loss).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


# Two, one and no boxes.
BOXES = [
    torch.tensor([[10.3, 12.1, 33.7, 36.2], [30.2, 5.1, 60.3, 41.4]]),
    torch.tensor([[20.7, 22.4, 55.1, 60.9]]),
    torch.zeros(0, 4),
]
MAPS = [
    torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]),
    torch.tensor([[0, 1, 1, 0, 0, 0]]),
    torch.zeros(0, TOKENS),
]
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])


def _outputs(images: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of tokens, deltas, and logits of centreness."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((images, 80, TOKENS), (images, 80, 4), (images, 80))
    words, deltas, central = (
        torch.randn(shape, generator=generator).requires_grad_() for shape in shapes
    )
    return words, deltas, central


def _losses(
    outputs: tuple[Tensor, Tensor, Tensor],
    assignment: Assignment,
    maps: Sequence[Tensor] = MAPS,
    mask: Tensor = MASK,
    **options: Any,
) -> dict[str, Tensor]:
    words, deltas, central = outputs
    boxes = _anchors().decode(deltas)
    return detection_losses(words, boxes, central, assignment, maps, mask, **options)


def test_each_sample_is_normalised_by_its_own_positives() -> None:
    """The three terms as written in loops; an image without boxes has none of two."""
    outputs, assignment = _outputs(), assign(_anchors(), BOXES)
    with torch.no_grad():
        found = _losses(outputs, assignment)
        boxes = _anchors().decode(outputs[1])
    for image in range(3):
        matched = assignment.matched[image].tolist()
        positive = [i for i, box in enumerate(matched) if box >= 0]
        assert bool(positive) == bool(len(BOXES[image]))
        words = 0.0
        for anchor, box in enumerate(matched):
            for token in range(int(MASK[image].sum())):
                wanted = int(MAPS[image][box, token]) if box >= 0 else 0
                words += _focal(outputs[0][image, anchor, token].item(), wanted)
        overlap = middle = total = 0.0
        for anchor in positive:
            own = BOXES[image][matched[anchor]]
            weight = float(centreness(_anchors().centres[anchor], own))
            overlap += weight * (1 - box_overlap(boxes[image, anchor], own, "giou").item())
            chance = 1 / (1 + math.exp(-outputs[2][image, anchor].item()))
            middle -= weight * math.log(chance) + (1 - weight) * math.log(1 - chance)
            total += weight
        count = max(len(positive), 1)
        assert float(found["words"][image]) == pytest.approx(words / count, rel=1e-4)
        assert float(found["boxes"][image]) == pytest.approx(2 * overlap / (total or 1), rel=1e-4)
        assert float(found["centreness"][image]) == pytest.approx(middle / count, rel=1e-4)


def test_a_sample_does_not_see_its_batch() -> None:
    """The mean over a global batch must not depend on how it is cut over workers."""
    outputs = _outputs()
    together = _losses(outputs, assign(_anchors(), BOXES))
    for image in range(3):
        one = slice(image, image + 1)
        words, deltas, central = (part[one] for part in outputs)
        alone = _losses(
            (words, deltas, central), assign(_anchors(), BOXES[one]), MAPS[one], MASK[one]
        )
        for name, term in alone.items():
            torch.testing.assert_close(term[0], together[name][image], rtol=1e-6, atol=0)


def test_images_without_boxes_give_gradients_of_zero_to_boxes_and_centreness() -> None:
    """The published code fails there."""
    outputs = _outputs(images=2)
    nothing = [torch.zeros(0, 4)] * 2
    for normaliser in ("sample", "batch"):
        assignment = assign(_anchors(), nothing)
        divisors = assignment.divisors(normaliser)
        maps = [torch.zeros(1, TOKENS)] * 2
        terms = _losses(outputs, assignment, maps, MASK[:2], divisors=divisors)
        assert terms["boxes"].tolist() == terms["centreness"].tolist() == [0, 0]
        assert (terms["words"] > 0).all()
        words, *others = torch.autograd.grad(
            torch.stack([term.sum() for term in terms.values()]).sum(), outputs, retain_graph=True
        )
        assert bool(words.any())
        assert not any(bool(gradient.any()) for gradient in others)


def test_no_images_have_no_losses() -> None:
    """A worker's share of the last batch may be empty."""
    words, deltas, central = (part[:0] for part in _outputs())
    assignment = assign(_anchors(), [])
    for normaliser in ("sample", "batch"):
        divisors = assignment.divisors(normaliser)
        terms = _losses((words, deltas, central), assignment, [], MASK[:0], divisors=divisors)
        assert [term.shape for term in terms.values()] == [(0,)] * 3


@pytest.mark.parametrize("cut", [[3], [2, 1], [1, 2], [1, 1, 1]])
def test_batch_is_normalised_as_published_however_it_is_cut(cut: list[int]) -> None:
    """Sum over all images by the positives of all, where workers know the totals of all."""
    outputs = _outputs()
    whole = assign(_anchors(), BOXES)
    own = whole.divisors()
    sums = {
        name: (term.detach() * (own.centreness if name == "boxes" else own.positives)).sum()
        for name, term in _losses(outputs, whole).items()
    }
    expected = {
        name: float(value / (whole.centreness if name == "boxes" else whole.positive).sum())
        for name, value in sums.items()
    }
    parts = torch.split(torch.arange(3), cut)
    shares = [assign(_anchors(), [BOXES[i] for i in part]) for part in parts]
    totals = torch.stack([share.totals() for share in shares]).sum(dim=0)
    terms: dict[str, list[Tensor]] = {name: [] for name in expected}
    for part, share in zip(parts, shares, strict=True):
        words, deltas, central = (output[part] for output in outputs)
        found = _losses(
            (words, deltas, central),
            share,
            [MAPS[i] for i in part],
            MASK[part],
            divisors=share.divisors("batch", over_workers=lambda _: totals),
        )
        for name, term in found.items():
            terms[name] += list(term)
    for name, values in terms.items():
        assert float(torch.stack(values).detach().mean()) == pytest.approx(expected[name], rel=1e-5)


def test_batch_and_sample_weigh_images_differently() -> None:
    assignment = assign(_anchors(), BOXES)
    sample, batch = assignment.divisors("sample"), assignment.divisors("batch")
    assert len(set(sample.positives.tolist())) > 1
    assert len(set(batch.positives.tolist())) == 1
    assert float(batch.positives[0]) == pytest.approx(float(assignment.positive.sum()) / 3)


def test_workers_without_positives_divide_by_one_each_as_published() -> None:
    """Each of them divides by 1, and the loss is the mean of the workers'."""
    assignment = assign(_anchors(), [torch.zeros(0, 4)] * 2)
    divisors = assignment.divisors("batch", over_workers=lambda totals: totals * 4)
    assert divisors.positives.tolist() == [4 / 8] * 2  # mean over 8 images = sum / 4 workers


def test_one_row_of_tokens_is_that_of_all_boxes() -> None:
    assignment = assign(_anchors(), BOXES[:1])
    row = torch.tensor([[0, 1, 0, 1, 0, 0]])
    assert torch.equal(
        token_targets(assignment, [row]), token_targets(assignment, [row.expand(2, -1)])
    )
    with pytest.raises(ValueError, match="3 rows of tokens for 2 boxes"):
        token_targets(assignment, [row.expand(3, -1)])


def test_each_box_has_its_own_tokens() -> None:
    assignment = assign(_anchors(), BOXES)
    targets = token_targets(assignment, MAPS)
    for image, box in ((0, 0), (0, 1), (1, 0)):
        anchors = assignment.matched[image] == box
        assert bool(anchors.any())
        assert (targets[image, anchors] == MAPS[image][box]).all()
    assert not targets[~assignment.positive].any()


def test_background_has_its_token_where_the_text_is_as_long() -> None:
    """A published caption of all 256 tokens: its last one is every empty place's then."""
    assignment = assign(_anchors(), BOXES)
    targets = token_targets(assignment, MAPS, background_token=5)
    assert (targets[~assignment.positive] == torch.tensor([0.0, 0, 0, 0, 0, 1])).all()
    assert torch.equal(
        targets[assignment.positive], token_targets(assignment, MAPS)[assignment.positive]
    )
    outputs = _outputs()
    plain = _losses(outputs, assignment)["words"]
    assert torch.equal(_losses(outputs, assignment, background_token=5)["words"], plain)
    full = torch.ones_like(MASK)
    plain = _losses(outputs, assignment, mask=full)["words"]
    other = _losses(outputs, assignment, mask=full, background_token=5)["words"]
    assert not torch.isclose(plain, other).any()
    assert torch.equal(
        _losses(outputs, assignment, mask=full, background_token=255)["words"], plain
    )


def test_padding_counts_nothing_whatever_is_in_it() -> None:
    """Neither in the loss nor in its gradients: the text tower may leave anything there."""
    words, deltas, central = _outputs()
    spoiled = words.detach().masked_fill(MASK[:, None] == 0, float("nan")).requires_grad_()
    assignment = assign(_anchors(), BOXES)
    found = _losses((spoiled, deltas, central), assignment)["words"]
    assert torch.equal(found, _losses((words, deltas, central), assignment)["words"])
    (gradient,) = torch.autograd.grad(found.sum(), spoiled)
    assert torch.isfinite(gradient).all()
    assert not gradient[(MASK[:, None] == 0).expand_as(gradient)].any()


def test_a_box_turned_inside_out_is_a_line() -> None:
    """Decoding takes a pixel off: boxes narrower than one have their sides the wrong way round."""
    anchors = _anchors()
    assignment = assign(anchors, BOXES)
    words, _, central = _outputs()
    deltas = torch.full((3, 80, 4), -50.0, requires_grad=True)
    boxes = anchors.decode(deltas)
    assert (boxes[..., 2] < boxes[..., 0]).all()
    loss = detection_losses(words, boxes, central, assignment, MAPS, MASK)["boxes"]
    assert (loss[:2] >= 2).all()  # no overlap: GIoU is at most 0
    (gradient,) = torch.autograd.grad(loss.sum(), deltas)
    assert torch.isfinite(gradient).all()


def test_box_loss_pulls_a_box_that_does_not_touch_its_target() -> None:
    """IoU alone has no gradient there."""
    assignment = assign(_anchors(), BOXES[1:2])
    boxes = torch.tensor([0.0, 0, 4, 4]).expand(1, 80, 4).clone().requires_grad_()
    outputs = _outputs(images=1)
    terms = detection_losses(outputs[0], boxes, outputs[2], assignment, MAPS[1:2], MASK[1:2])
    (gradient,) = torch.autograd.grad(terms["boxes"].sum(), boxes)
    assert (gradient[assignment.positive][:, 2] < 0).all()  # the right side is to go right


def test_losses_are_of_full_precision_inside_autocast() -> None:
    outputs, assignment = _outputs(), assign(_anchors(), BOXES)
    plain = _losses(outputs, assignment)
    with torch.autocast("cpu", torch.bfloat16):
        assignment = assign(_anchors(), BOXES)
        cast = _losses(outputs, assignment)
    for name, term in cast.items():
        assert term.dtype == torch.float32
        assert torch.equal(term, plain[name])


def test_half_precision_outputs_are_taken() -> None:
    words, deltas, central = (part.detach().bfloat16() for part in _outputs())
    terms = _losses((words, deltas, central), assign(_anchors(), BOXES))
    full = _losses((words.float(), deltas.float(), central.float()), assign(_anchors(), BOXES))
    for name, term in terms.items():
        assert torch.equal(term, full[name])
