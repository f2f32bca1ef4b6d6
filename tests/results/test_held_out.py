"""What held-out benchmarks kept: a loss is negative, and nothing undefined becomes a figure."""

import math

from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow
from system.results.held_out import held_out_metrics

TASKS = ("animal", "food")


def _matrix(*values: float, reason: str | None = None) -> AccuracyMatrix:
    """Of one benchmark: zero-shot first, then after each task."""
    rows = [
        MatrixRow(trained, 0, "t2i_r1", value, 10, reason if math.isnan(value) else None)
        for trained, value in enumerate(values, start=-1)
    ]
    return AccuracyMatrix(TASKS, rows, ["flickr30k"])


def test_retention_is_the_last_value_less_the_frozen_model_s() -> None:
    undefined: dict[str, str] = {}
    found = held_out_metrics(_matrix(70.0, 75.0, 61.5), undefined)
    assert found == {
        "flickr30k": {
            "zero_shot": {"t2i_r1": 70.0},
            "after": {"animal": {"t2i_r1": 75.0}, "food": {"t2i_r1": 61.5}},
            "retention": {"t2i_r1": -8.5},
        }
    }
    assert not undefined


def test_an_undefined_value_leaves_no_retention_and_says_why() -> None:
    """A zero would read as nothing lost."""
    undefined: dict[str, str] = {}
    found = held_out_metrics(_matrix(70.0, 75.0, math.nan, reason="no queries"), undefined)
    assert found["flickr30k"]["after"]["food"]["t2i_r1"] is None
    assert found["flickr30k"]["retention"]["t2i_r1"] is None
    assert undefined == {
        "held_out.flickr30k.after.food.t2i_r1": "no queries",
        "held_out.flickr30k.retention.t2i_r1": "t2i_r1 on 'flickr30k' after 'food': no queries",
    }


def test_nothing_trained_is_nothing_kept() -> None:
    undefined: dict[str, str] = {}
    found = held_out_metrics(_matrix(70.0), undefined)["flickr30k"]
    assert (found["after"], found["retention"]) == ({}, {"t2i_r1": None})
    assert "evaluation" in undefined["held_out.flickr30k.retention.t2i_r1"]
