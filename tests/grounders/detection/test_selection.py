"""Suppression at once for a batch against the greedy loop."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.grounders.detection.selection import best_boxes, suppress
from system.results.rec import box_overlap


def _greedy(boxes: Tensor, overlap: float) -> list[bool]:
    kept: list[int] = []
    for i in range(len(boxes)):
        hidden = any(float(box_overlap(boxes[i], boxes[j], "iou")) > overlap for j in kept)
        if not hidden:
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 0.6]))
def test_it_keeps_what_the_greedy_loop_keeps(seed: int, overlap: float) -> None:
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


def test_of_equal_scores_the_earlier_place_wins() -> None:
    """Else two machines would report different boxes."""
    boxes = torch.tensor([[[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5.0]]])
    ((found, _),) = best_boxes(boxes, torch.full((1, 3), 0.5), 3, 0.5, 3)
    assert torch.equal(found, boxes[0])
