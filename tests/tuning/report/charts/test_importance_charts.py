"""Importance of keys: the one that decides comes out on top, and chance is called chance."""

import numpy as np

from tests.tuning.report.charts.chart_traces import traces
from tuning.report.charts.importance_charts import (
    FEW,
    Importance,
    importance,
    importance_chart,
)
from tuning.report.parameter_axes import ParameterAxis

RANKS = [1.0, 2.0, 4.0, 8.0] * 3
AXES = [
    ParameterAxis("rank", tuple(RANKS)),
    ParameterAxis("width", (float("nan"), *(n % 3.0 for n in range(1, 12)))),
]


def test_the_key_that_decides_is_the_important_one() -> None:
    found = importance(AXES, [2 * rank for rank in RANKS])
    drop = dict(zip(found.names, found.drop, strict=True))
    assert drop["rank"] > 10 * max(abs(drop["width"]), 0.01)
    (bars,) = traces(importance_chart(found, "at the end"))
    assert bars["y"] == ["width", "rank"]  # the last one is on top


def test_the_same_scores_give_the_same_importance() -> None:
    scores = [2 * rank for rank in RANKS]
    assert importance(AXES, scores) == importance(AXES, scores)


def test_chance_is_called_chance() -> None:
    """Twelve trials always have an order of importance, whether there is one or not."""
    rng = np.random.default_rng(0)
    found = importance(AXES, [float(rng.uniform(10, 20)) for _ in RANKS])
    assert "this order is chance" in importance_chart(found, "at the end").caption


def test_an_order_of_few_trial_configs_is_called_a_hint() -> None:
    found = Importance(("rank",), (1.0,), (0.1,), explained=0.9, configs=FEW - 1)
    assert "only a hint" in importance_chart(found, "at the end").caption
    many = Importance(("rank",), (1.0,), (0.1,), explained=0.9, configs=FEW)
    assert "hint" not in importance_chart(many, "at the end").caption
