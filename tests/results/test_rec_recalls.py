"""Named recalls of a split: which expressions count where, and what is undefined."""

from __future__ import annotations

import math

import pytest
import torch

from system.results.rec_recalls import METRICS, OVERLAPS, TaskRanks, split_recalls

# rank of the first hit by IoU, by GIoU, which is never better, and from an IoU of 0.6 to 0.9 on
FOOD = TaskRanks(
    torch.tensor(
        [[0, 4, 0, 0, 2, -1], [3, -1, 3, 5, -1, -1], [9, 10, 9, 9, 9, 9], [-1, -1, -1, -1, -1, -1]]
    ),
    ["fruit", "fruit", "dish", "dish"],
    [1023.9, 1024.0, 9215.0, 9216.0],
)
SPORT = TaskRanks(torch.tensor([[0, 0, 0, 0, 0, 0]]), ["dish"], [100.0])


def test_recalls_are_of_the_right_expressions() -> None:
    """Over all expressions the larger task weighs more, in the mean of the tasks not."""
    found = split_recalls({"food": FOOD, "sport": SPORT}, "test")
    assert found.expressions == 5
    assert found.all == pytest.approx(
        {
            "rec_r1": 40.0,
            "rec_r5": 60.0,
            "rec_r10": 80.0,
            "rec_ub": 80.0,
            "rec_r1_giou": 20.0,
            "rec_r5_giou": 40.0,
            "rec_r10_giou": 40.0,
            "rec_ub_giou": 60.0,
            "rec_r1_iou60": 40.0,
            "rec_r1_iou70": 40.0,
            "rec_r1_iou80": 20.0,
            "rec_r1_iou90": 20.0,
        }
    )
    assert set(found.all) == set(METRICS)
    assert found.per_task["food"]["rec_r1"] == pytest.approx(25.0)
    assert found.average["rec_r1"] == pytest.approx((25.0 + 100.0) / 2)
    assert found.per_super_category["fruit"]["rec_r5"] == pytest.approx(100.0)
    assert found.per_super_category["dish"]["rec_r1"] == pytest.approx(100 / 3)
    assert not found.undefined


def test_objects_are_sorted_by_the_area_of_their_box() -> None:
    """32 x 32 pixels are medium, 96 x 96 large, as MSCOCO's bounds are."""
    found = split_recalls({"food": FOOD, "sport": SPORT}, "test")
    assert found.sizes == {"small": 2, "medium": 2, "large": 1}
    assert {size: of["rec_r10"] for size, of in found.per_size.items()} == {
        "small": 100.0,
        "medium": 100.0,
        "large": 0.0,
    }
    alone = split_recalls({"sport": SPORT}, "testA")
    assert list(alone.per_size) == ["small"]


def test_a_task_without_expressions_is_undefined_and_left_out_of_the_average() -> None:
    """Counted as 0 it would look like a method that fails there; RefCOCO's testA has one task."""
    empty = TaskRanks(torch.zeros(0, len(OVERLAPS), dtype=torch.long), [], [])
    found = split_recalls({"food": FOOD, "none": empty, "sport": SPORT}, "testA")
    assert math.isnan(found.per_task["none"]["rec_r1"])
    assert found.average["rec_r1"] == pytest.approx((25.0 + 100.0) / 2)
    assert set(found.undefined) == {"per_task.none"}
    assert "'none' has no expression in split 'testA'" in found.undefined["per_task.none"]
    assert found.to_json()["per_task"]["none"]["rec_r1"] is None
    nothing = split_recalls({"none": empty}, "testA")
    assert math.isnan(nothing.average["rec_ub"])
    assert {"all", "average", "per_task.none"} <= set(nothing.undefined)
