"""Named recalls of a split: which expressions count where, and what is undefined."""

from __future__ import annotations

import math

import pytest
import torch

from system.results.rec_recalls import METRICS, TaskRanks, split_recalls

# rank of the first hit by IoU, and by GIoU, which is never better
FOOD = TaskRanks(
    torch.tensor([[0, 4], [3, -1], [9, 10], [-1, -1]]), ["fruit", "fruit", "dish", "dish"]
)
SPORT = TaskRanks(torch.tensor([[0, 0]]), ["dish"])


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
        }
    )
    assert set(found.all) == set(METRICS)
    assert found.per_task["food"]["rec_r1"] == pytest.approx(25.0)
    assert found.average["rec_r1"] == pytest.approx((25.0 + 100.0) / 2)
    assert found.per_super_category["fruit"]["rec_r5"] == pytest.approx(100.0)
    assert found.per_super_category["dish"]["rec_r1"] == pytest.approx(100 / 3)
    assert not found.undefined


def test_a_task_without_expressions_is_undefined_with_the_reason() -> None:
    """Counted as 0 it would look like a method that fails there."""
    empty = TaskRanks(torch.zeros(0, 2, dtype=torch.long), [])
    found = split_recalls({"food": FOOD, "none": empty}, "testA")
    assert math.isnan(found.per_task["none"]["rec_r1"])
    assert math.isnan(found.average["rec_ub"])
    assert found.all["rec_r1"] == pytest.approx(25.0)
    assert set(found.undefined) == {"per_task.none", "average"}
    assert "'none'" in found.undefined["average"]
    assert "'testA'" in found.undefined["average"]
    plain = found.to_json()
    assert plain["average"]["rec_ub"] is None
    assert plain["per_task"]["none"]["rec_r1"] is None
