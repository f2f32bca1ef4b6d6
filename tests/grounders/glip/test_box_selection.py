"""Selection against a loop over labels and boxes, as the published rules are written."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.grounders.glip import box_selection
from system.grounders.glip.box_coder import pixel_overlap
from system.grounders.glip.box_selection import (
    NO_CANDIDATE,
    SelectedBoxes,
    SelectionRules,
    clip_boxes,
    label_probabilities,
    resize_boxes,
    select_boxes,
    suppress,
)

ALL = SelectionRules(
    threshold=0, candidates_per_level=None, candidates=10**6, overlap=1, most=10**6
)
PER_LEVEL = (12, 6, 2)


def _random(seed: int, images: int = 2, labels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, probabilities and centreness of 20 anchors; boxes crowd, and some lie outside."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(images, sum(PER_LEVEL), *shape, generator=generator)

    corner = rand(2) * 50 - 10
    boxes = torch.cat([corner, corner + rand(2) * 40], dim=-1)
    return boxes, rand(labels), rand() * 6 - 3


def _of(outputs: tuple[Tensor, Tensor, Tensor], index: object) -> tuple[Tensor, Tensor, Tensor]:
    boxes, named, centreness = (part[index] for part in outputs)  # type: ignore[index]
    return boxes, named, centreness


def _suppress_by_loop(boxes: Tensor, labels: list[int], overlap: float) -> list[int]:
    kept: list[int] = []
    table = pixel_overlap(boxes[:, None], boxes).tolist()
    for i in range(len(boxes)):
        better = [j for j in kept if labels[j] == labels[i]]
        if not any(table[i][j] > overlap for j in better):
            kept.append(i)
    return kept


def _select_by_loop(
    boxes: Tensor, named: Tensor, centreness: Tensor, size: tuple[int, int], rules: SelectionRules
) -> list[tuple[float, int, list[float]]]:
    """Score, label and box of one image's boxes."""
    found = []
    first = 0
    for count in PER_LEVEL if rules.candidates_per_level else (sum(PER_LEVEL),):
        level = []
        for anchor in range(first, first + count):
            for label in range(named.shape[1]):
                chance = float(named[anchor, label])
                if chance > rules.threshold or (rules.threshold == 0 and chance >= 0):
                    rank = chance / (1 + math.exp(-float(centreness[anchor])))
                    x0, y0, x1, y1 = boxes[anchor].tolist()
                    x0, x1 = (min(max(x, 0), size[1] - 1) for x in (x0, x1))
                    y0, y1 = (min(max(y, 0), size[0] - 1) for y in (y0, y1))
                    level.append((math.sqrt(rank), label, [x0, y0, x1, y1]))
        level.sort(key=lambda one: -one[0])
        found += level[: rules.candidates_per_level or rules.candidates]
        first += count
    found.sort(key=lambda one: -one[0])
    corners = torch.tensor([box for _, _, box in found], dtype=torch.float32).reshape(-1, 4)
    kept = _suppress_by_loop(corners, [label for _, label, _ in found], rules.overlap)
    return [found[i] for i in kept][: rules.most]


rules_of = st.builds(
    SelectionRules,
    threshold=st.sampled_from([0.0, 0.05, 0.5]),
    candidates_per_level=st.sampled_from([None, 3, 10]),
    candidates=st.sampled_from([5, 30]),
    overlap=st.sampled_from([0.1, 0.3, 0.6]),
    most=st.sampled_from([1, 4, 100]),
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), rules_of)
def test_selection_is_the_published_rules(seed: int, rules: SelectionRules) -> None:
    """Several labels per image, images of two sizes in one batch."""
    outputs = _random(seed)
    sizes = [(40, 60), (55, 31)]
    found = select_boxes(*outputs, PER_LEVEL, sizes, rules)
    for image, one in enumerate(found):
        expected = _select_by_loop(*_of(outputs, image), sizes[image], rules)
        assert one.labels.tolist() == [label for _, label, _ in expected]
        scores = torch.tensor([score for score, _, _ in expected])
        torch.testing.assert_close(one.scores, scores, atol=1e-6, rtol=0)
        corners = torch.tensor([box for _, _, box in expected], dtype=torch.float32).reshape(-1, 4)
        torch.testing.assert_close(one.boxes, corners, atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), rules_of, st.permutations(range(4)))
def test_an_image_does_not_see_its_batch(
    seed: int, rules: SelectionRules, order: list[int]
) -> None:
    """Metrics would depend on the batch size."""
    outputs = _random(seed, images=4)
    sizes = torch.tensor([[40, 60], [55, 31], [70, 70], [20, 90]])
    together = select_boxes(*_of(outputs, order), PER_LEVEL, sizes[order], rules)
    for image, one in zip(order, together, strict=True):
        one_of = slice(image, image + 1)
        (alone,) = select_boxes(*_of(outputs, one_of), PER_LEVEL, sizes[one_of], rules)
        _same(one, alone)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), rules_of)
def test_an_image_does_not_see_labels_that_only_others_have(
    seed: int, rules: SelectionRules
) -> None:
    """Images with fewer phrases than others are filled up with labels without tokens."""
    boxes, named, centreness = _random(seed)
    filled = torch.cat([named, torch.full_like(named, NO_CANDIDATE)], dim=-1)
    sizes = [(60, 60)] * 2
    plain = select_boxes(boxes, named, centreness, PER_LEVEL, sizes, rules)
    more = select_boxes(boxes, filled, centreness, PER_LEVEL, sizes, rules)
    for one, other in zip(plain, more, strict=True):
        _same(one, other)


def _same(one: SelectedBoxes, other: SelectedBoxes) -> None:
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.labels, other.labels)


def _crowd(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corner, corner + 5 + 30 * torch.rand(count, 2, generator=generator)], dim=1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.1, 0.3, 0.6]),
    st.integers(1, 3),
    st.sampled_from([1, 7, 512]),
)
def test_suppression_keeps_what_the_greedy_loop_keeps(
    seed: int, overlap: float, labels: int, block: int
) -> None:
    """Chains of boxes, each over the next, in blocks or not, are what a shortcut gets wrong."""
    boxes = _crowd(seed, 30)
    label = torch.arange(30) % labels
    scores = torch.linspace(1, 0.5, 30)
    expected = _suppress_by_loop(boxes, label.tolist(), overlap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_selection, "BLOCK", block)
        assert suppress(boxes, label, overlap, scores).tolist() == expected
        assert suppress(boxes, label, overlap, scores, most=4).tolist() == expected[:4]


def test_a_chain_keeps_every_other_box() -> None:
    x = torch.arange(6.0)[:, None] * 5
    boxes = torch.cat([x, torch.zeros(6, 1), x + 9, torch.ones(6, 1)], dim=1)
    one = torch.zeros(6, dtype=torch.long)
    assert suppress(boxes, one, 0.3, torch.ones(6)).tolist() == [0, 2, 4]
    assert suppress(boxes, torch.arange(6), 0.3, torch.ones(6)).tolist() == [0, 1, 2, 3, 4, 5]


def test_an_overlap_of_just_the_limit_stays() -> None:
    """As on a GPU in the published code; its CPU path drops it."""
    boxes = torch.tensor([[0.0, 0, 9, 9], [0.0, 0, 4, 9]])  # an overlap of exactly one half
    found = suppress(boxes, torch.zeros(2, dtype=torch.long), 0.5, torch.tensor([0.9, 0.8]))
    assert found.tolist() == [0, 1]


@pytest.mark.parametrize("block", [1, 2, 512])
def test_boxes_equal_to_the_last_one_stay_as_published(block: int) -> None:
    x = torch.arange(6.0)[:, None] * 20
    boxes = torch.cat([x, x, x + 9, x + 9], dim=1)
    one, scores = torch.zeros(6, dtype=torch.long), torch.tensor([0.9, 0.8, 0.7, 0.7, 0.7, 0.6])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_selection, "BLOCK", block)
        assert suppress(boxes, one, 0.5, scores, most=3).tolist() == [0, 1, 2, 3, 4]
        assert suppress(boxes, one, 0.5, scores, most=2).tolist() == [0, 1]


def test_thousands_of_boxes_need_no_table_of_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 candidates of one image would compare 25 million pairs at once."""
    largest = 0

    def counted(first: Tensor, second: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, first.shape[0] * second.shape[0])
        return pixel_overlap(first, second)

    monkeypatch.setattr(box_selection, "pixel_overlap", counted)
    boxes = _crowd(0, 1500) * 3
    scores = torch.linspace(1, 0, 1500)
    kept = suppress(boxes, torch.zeros(1500, dtype=torch.long), 0.6, scores)
    assert 0 < largest <= box_selection.BLOCK * max(box_selection.BLOCK, len(kept))
    assert largest < 1500**2 / 10


def test_score_is_of_words_and_centreness_but_the_threshold_of_words_alone() -> None:
    """A place far from any middle may be a candidate, however low its score."""
    boxes = torch.tensor([[[0.0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49]]])
    named = torch.tensor([[[0.5], [0.06], [0.05]]])
    centreness = torch.tensor([[0.0, -20.0, 20.0]])
    (found,) = select_boxes(boxes, named, centreness, (3,), [(50, 50)], SelectionRules())
    assert torch.equal(found.boxes, boxes[0, :2])
    expected = [math.sqrt(0.5 / 2), math.sqrt(0.06 / (1 + math.exp(20)))]
    assert found.scores.tolist() == pytest.approx(expected, rel=1e-5)
    (found,) = select_boxes(boxes, named, centreness, (3,), [(50, 50)], ALL)
    assert len(found.boxes) == 3  # 0 is no threshold


def test_each_level_brings_its_best_over_all_labels() -> None:
    """As many of all levels together could all be of the first one."""
    x = torch.arange(4.0)[:, None] * 20
    boxes = torch.cat([x, x, x + 9, x + 9], dim=1)[None]
    named = torch.tensor([[[0.9, 0.8], [0.7, 0.6], [0.1, 0.2], [0.05, 0.3]]])
    outputs = (boxes, named, torch.full((1, 4), 50.0), (2, 2), [(100, 100)])
    (found,) = select_boxes(*outputs, replace(ALL, candidates_per_level=2))
    torch.testing.assert_close(found.scores**2, torch.tensor([0.9, 0.8, 0.3, 0.2]))
    assert found.labels.tolist() == [0, 1, 1, 1]
    (found,) = select_boxes(*outputs, replace(ALL, candidates=3))
    torch.testing.assert_close(found.scores**2, torch.tensor([0.9, 0.8, 0.7]))


def test_of_equal_scores_the_earlier_place_wins() -> None:
    """Else two machines would report different boxes."""
    x = torch.arange(3.0)[:, None] * 20
    boxes = torch.cat([x, x, x + 9, x + 9], dim=1)[None]
    outputs = (boxes, torch.full((1, 3, 2), 0.5), torch.zeros(1, 3), (2, 1), [(100, 100)])
    (found,) = select_boxes(*outputs, replace(ALL, candidates=3))
    assert torch.equal(found.boxes, boxes[0, [0, 0, 1]])
    assert found.labels.tolist() == [0, 1, 0]


def test_boxes_outside_of_the_image_keep_a_line_of_it() -> None:
    """As published: boxes without area are handed on."""
    boxes = torch.tensor([[[-9.0, 3, -2, 8], [95, 3, 130, 8]]])
    outputs = (boxes, torch.ones(1, 2, 1), torch.zeros(1, 2), (2,), [(50, 100)])
    (found,) = select_boxes(*outputs, ALL)
    assert found.boxes.tolist() == [[0, 3, 0, 8], [95, 3, 99, 8]]


def test_what_is_no_number_is_no_candidate() -> None:
    """A diverged prompt gives few or no boxes, rather than those that a sort puts first."""
    boxes = torch.zeros(1, 3, 4)
    named = torch.tensor([[[float("nan")], [0.5], [0.5]]])
    centreness = torch.tensor([[0.0, float("nan"), 0.0]])
    for rules in (ALL, SelectionRules()):
        (found,) = select_boxes(boxes, named, centreness, (3,), [(5, 5)], rules)
        assert len(found.boxes) == 1


def test_probability_of_a_label_is_the_mean_of_its_own_tokens() -> None:
    logits = torch.tensor([[[0.0, 2.0, -1.0, float("inf")]], [[1.0, 1.0, 3.0, 3.0]]])
    tokens = torch.tensor([[[0, 1, 1, 0], [0, 0, 0, 1]], [[1, 0, 0, 0], [0, 0, 0, 0]]])
    named = label_probabilities(logits, tokens)

    def chance(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert named[0, 0].tolist() == pytest.approx([(chance(2) + chance(-1)) / 2, 1.0])
    assert named[1, 0].tolist() == pytest.approx([chance(1), -1])
    assert label_probabilities(logits, tokens[:, :0]).shape == (2, 1, 0)


def test_a_label_without_tokens_has_no_boxes() -> None:
    """Not even where all are candidates."""
    boxes = torch.tensor([[[0.0, 0, 9, 9]]])
    named = label_probabilities(torch.zeros(1, 1, 3), torch.tensor([[[0, 0, 0], [0, 1, 0]]]))
    for rules in (ALL, SelectionRules()):
        (found,) = select_boxes(boxes, named, torch.zeros(1, 1), (1,), [(50, 50)], rules)
        assert found.labels.tolist() == [1]
    (found,) = select_boxes(boxes, named[..., :0], torch.zeros(1, 1), (1,), [(50, 50)], ALL)
    assert found.boxes.shape == (0, 4)


def test_probabilities_and_scores_are_of_full_precision_inside_autocast() -> None:
    boxes, named, centreness = _random(1)
    logits = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 1, 0, 0, 1]]).expand(2, 1, 5)
    expected = label_probabilities(logits, tokens)
    plain = select_boxes(boxes, named, centreness, PER_LEVEL, [(50, 50)] * 2, SelectionRules())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(label_probabilities(logits, tokens), expected)
        cast = select_boxes(boxes, named, centreness, PER_LEVEL, [(50, 50)] * 2, SelectionRules())
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(plain, cast, strict=True))


def test_boxes_follow_their_image_to_another_size() -> None:
    box = torch.tensor([10.0, 20.0, 30.0, 40.0])
    assert resize_boxes(box, (50, 100), (100, 300)).tolist() == [30, 40, 90, 80]
    assert resize_boxes(box, (50, 100), (1, 1)).tolist() == pytest.approx([0.1, 0.4, 0.3, 0.8])


def test_clipping_ends_at_the_last_pixel() -> None:
    box = torch.tensor([-5.0, -5.0, 500.0, 500.0])
    assert clip_boxes(box, height=50, width=100).tolist() == [0, 0, 99, 49]


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", -0.1), ("overlap", 1.5), ("candidates_per_level", 0), ("most", 0)],
)
def test_impossible_rules_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        replace(ALL, **{field: value})
