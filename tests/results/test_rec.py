from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from system.results.metrics import Overlap
from system.results.rec import best_hits, box_overlap, rec_recall

SIDE = st.integers(0, 20)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def _naive(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[float, float]:
    """IoU and GIoU by counting unit squares."""

    def squares(box: tuple[int, ...]) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    first, second = squares(a), squares(b)
    union = len(first | second)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = len(first & second) / union if union else 0.0
    return iou, iou - ((hull - union) / hull if hull else 0.0)


@given(BOX, BOX)
def test_overlap_agrees_with_counting_squares(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    first, second = torch.tensor(a), torch.tensor(b)
    iou, giou = _naive(a, b)
    assert float(box_overlap(first, second, "iou")) == pytest.approx(iou)
    assert float(box_overlap(first, second, "giou")) == pytest.approx(giou)


def test_rank_is_that_of_the_best_scored_hit() -> None:
    """Boxes come in no order: a recall that trusts theirs would be wrong."""
    target = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    hit, miss = [0.0, 0.0, 10.0, 9.0], [20.0, 20.0, 30.0, 30.0]
    boxes, scores = torch.tensor([hit, miss, hit, miss]), torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert best_hits([boxes], [scores], target, "iou").tolist() == [2]


def test_half_an_overlap_is_a_hit_by_iou_and_not_always_by_giou() -> None:
    """The corrected rule must differ from the published one, and only where it should."""
    target = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    corner = torch.tensor([[0.0, 0.0, 2.0, 4.0]])  # IoU exactly 0.5, inside the target
    shifted = torch.tensor([[1.0, 1.0, 5.0, 4.0]])  # IoU 9 / 19
    wide = torch.tensor([[0.7, 0.7, 4.7, 4.7]])  # IoU 0.52, GIoU 0.47
    score = torch.ones(1)
    assert best_hits([corner], [score], target, "iou").tolist() == [0]
    assert best_hits([corner], [score], target, "giou").tolist() == [0]
    assert best_hits([shifted], [score], target, "iou").tolist() == [-1]
    assert best_hits([wide], [score], target, "iou").tolist() == [0]
    assert best_hits([wide], [score], target, "giou").tolist() == [-1]


def test_of_several_boxes_that_are_meant_any_is_a_hit() -> None:
    """Flickr30k's any-box: "two men" are two boxes, and each of them is found."""
    target = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    boxes = torch.tensor([[0.0, 0.0, 30.0, 10.0], [20.0, 0.0, 30.0, 9.0], [0.0, 0.0, 10.0, 9.0]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert best_hits([boxes], [scores], [target], "iou").tolist() == [1]
    assert best_hits([boxes], [scores], [target[:1]], "iou").tolist() == [2]


def test_a_stricter_overlap_takes_the_next_box_that_reaches_it() -> None:
    """R@1 at 0.9 of a box that only half fits would be a wrong one."""
    target = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 7.0], [0.0, 0.0, 10.0, 9.0]])
    scores = torch.tensor([0.9, 0.8])
    found = [best_hits([boxes], [scores], target, "iou", least) for least in (0.7, 0.8, 0.9, 0.95)]
    assert [int(rank) for rank in found] == [0, 1, 1, -1]


QUERY = st.tuples(
    st.lists(st.tuples(BOX, st.sampled_from([0.0, 0.25, 0.5, -1.0])), max_size=4),
    st.lists(BOX, max_size=3),
)


@given(st.lists(QUERY, max_size=4), st.sampled_from(["iou", "giou"]), st.sampled_from([0.5, 0.1]))
def test_ranks_are_those_of_one_query_at_a_time(
    queries: list[tuple[list[tuple[tuple[int, ...], float]], list[tuple[int, ...]]]],
    measure: Overlap,
    least: float,
) -> None:
    """Queries of unlike sizes are filled up to one: no filling may hit, or take a rank."""
    expected = []
    for scored, meant in queries:
        best = sorted(scored, key=lambda each: -each[1])  # stable: of equal scores the earlier
        hits = (
            any(
                float(box_overlap(torch.tensor(box), torch.tensor(one), measure)) >= least
                for one in meant
            )
            for box, _ in best
        )
        expected.append(next((rank for rank, hit in enumerate(hits) if hit), -1))
    found = best_hits(
        [torch.tensor([box for box, _ in scored]).reshape(-1, 4).float() for scored, _ in queries],
        [torch.tensor([score for _, score in scored]) for scored, _ in queries],
        [torch.tensor(meant).reshape(-1, 4).float() for _, meant in queries],
        measure,
        least,
    )
    assert found.tolist() == expected


def test_a_query_without_boxes_counts_as_missed() -> None:
    """A grounder that finds nothing must not shrink the number of queries."""
    target = torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 2)
    ranks = best_hits(
        [torch.zeros(0, 4), target[:1]], [torch.zeros(0), torch.ones(1)], target, "iou"
    )
    assert ranks.tolist() == [-1, 0]
    assert rec_recall(ranks, (1, None)) == {1: 0.5, None: 0.5}


def test_recall_without_queries_is_undefined() -> None:
    assert math.isnan(rec_recall(torch.zeros(0, dtype=torch.long), (1,))[1])


def test_different_numbers_of_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        best_hits([torch.zeros(1, 4)], [], torch.zeros(1, 4), "iou")
