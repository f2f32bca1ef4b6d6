"""One LPI training step at ViT-B/16's sizes against the same in plain PyTorch, in turn."""

from __future__ import annotations

import pytest
import torch

from system.backbones.computation import Computation
from tests.benchmarks.conftest import Performance
from tests.gpu.throughput import PLAIN, measured

BATCH, ROUNDS = 16, 2


@pytest.mark.benchmark
def test_a_training_step(performance: Performance) -> None:
    device = torch.device("cpu")
    best = measured(device, batch=BATCH, layers=12, steps=1, rounds=ROUNDS, compiled=True)
    auto = Computation().precision_on(device)
    for kind, seconds in best.items():
        if kind == PLAIN:
            continue
        performance.compare(
            f"LPI training step, ViT-B/16, batch {BATCH}: {kind} (auto is {auto} here)",
            ours=seconds,
            other=best[PLAIN],
            unit="s",
            against=PLAIN,
            aim="<= 0.926" if kind == "ours, fp32" else "",
        )
