"""ATSS against the algorithm written as loops."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.grounders.detection.anchors import Anchors, pyramid_anchors
from system.grounders.detection.assignment import assign

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
def test_it_is_the_published_algorithm(targets: Tensor, nearest: int) -> None:
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
