"""Rows of trials.parquet as sweeps leave them."""

import json
from typing import Any

from system.results.recall import METRICS as RECALLS
from tuning.report.comparison import Comparison, compare
from tuning.search.sweep_config import SweepMetric

RECALL = SweepMetric("stream", "average recall", "%", 3)

Row = dict[str, Any]


def trial_row(label: str, seed: int, scores: list[float | None], status: str, **more: Any) -> Row:
    """A trial of a stream of three tasks; `more` are other columns."""
    done = status == "finished"
    row: Row = {
        "trial": f"{label}-{seed}",
        "setting": label,
        "method": label,
        "values": "{}",
        "overrides": ["method=x"],
        "learning_rate": None if label == "zero_shot" else 0.1,
        "seed": seed,
        "status": status,
        "tasks_done": len(scores),
        "reason": "<b>diverged</b>" if status == "failed" else None,
        "figure": scores[-1] if done else None,
        "figure_by_task": scores,
        "trainable_parameters": 0 if label == "zero_shot" else 500,
        "trainable_parameters_per_task": 100,
        "seconds": 3.0 if done else None,
        "seconds_per_task": 1.0 if done else None,
    }
    for section in ("average", "forgetting", "zero_shot"):
        row |= {f"{section}_{recall}": 10.0 if done else None for recall in RECALLS}
    return row | more


def searched_row(number: int, values: dict[str, Any], *scores: float) -> Row:
    """A trial whose values, a rank among them, come from a search space."""
    status = "finished" if len(scores) == RECALL.tasks else "stopped"
    return trial_row(
        f"lpi-{number:03d}",
        0,
        list(scores),
        status,
        values=json.dumps(values),
        trainable_parameters=100 * values["rank"],
    )


RANKS = [1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8]
#: The rank decides the score, the width does not; one trial was stopped, one has no width.
RANK_SWEEP = [
    searched_row(n, {"rank": rank, "width": n % 3}, *([rank * 2.0] * (1 if n == 5 else 3)))
    for n, rank in enumerate(RANKS)
]
RANK_SWEEP[0] = searched_row(0, {"rank": 1}, 2.0, 2.0, 2.0)

#: Population based training: lpi-001 was stopped after two tasks, lpi-002 forked from lpi-000.
FORKED_SWEEP = [
    trial_row("lpi-000", 0, [10.0, 20.0, 30.0], "finished", values='{"weight": 0.1}'),
    trial_row("lpi-001", 0, [9.0, 12.0], "stopped", values='{"weight": 1.0}'),
    trial_row(
        "lpi-002",
        0,
        [10.0, 20.0, 35.0],
        "finished",
        parent="lpi-000",
        forked_after=2,
        values='{"weight": [0.1, 0.1, 0.125]}',
    ),
]


def compared(rows: list[Row], seeds: int = 1) -> Comparison:
    """The comparison of a sweep's rows."""
    return compare(rows, seeds)
