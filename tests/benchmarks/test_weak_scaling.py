"""Whether a worker's work grows with the number of workers: up to 64 of them, simulated."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks import weak_scaling
from tests.benchmarks.conftest import Performance

WORKERS = (1, 2, 4, 8, 16, 32, 64)


def simulated(*workers: int) -> list[dict[str, float]]:
    """Rows of `weak_scaling.simulate`, in a process that has computed nothing yet."""
    code = [sys.executable, "-m", weak_scaling.__name__, *map(str, workers)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    rows: list[dict[str, float]] = json.loads(done.stdout)
    return rows


def compare(performance: Performance, workers: tuple[int, ...] = WORKERS) -> None:
    """A table, and how much more the largest group's worker computes than one alone."""
    rows = simulated(*workers)
    performance.table(
        "Weak scaling, simulated",
        ["workers", "global batch", "processor ms per worker and step", "bytes received per step"],
        [
            [
                f"{row['workers']:.0f}",
                f"{row['workers'] * weak_scaling.SHARE:.0f}",
                f"{1e3 * row['busy']:.1f}",
                f"{row['received']:,.0f}",
            ]
            for row in rows
        ],
        f"LPI's step on a small CLIP, {weak_scaling.SHARE} samples a worker, gloo processes that "
        "share this machine's cores. It tells what a worker computes and receives. It does not "
        "tell the time of a step on a cluster: that depends on the network, and cores that are "
        "shared wait for each other.",
    )
    performance.compare(
        f"what a worker computes in a step, {workers[-1]} workers",
        ours=1e3 * rows[-1]["busy"],
        other=1e3 * rows[0]["busy"],
        unit="ms of processor",
        against="one worker",
    )


@pytest.mark.benchmark
def test_weak_scaling_to_64_workers(performance: Performance) -> None:
    compare(performance)


def test_two_workers_receive_each_others_features() -> None:
    """The bytes in the table are those of the step: features of both towers, then gradients."""
    alone, two = simulated(1, 2)
    assert alone["received"] == 0
    features = 2 * weak_scaling.SHARE * 64 * 4  # two towers, float32
    factors = 4 * (weak_scaling.LAYERS + 2 * weak_scaling.LENGTH + 2 * 64) * 4
    assert two["received"] == features + factors
