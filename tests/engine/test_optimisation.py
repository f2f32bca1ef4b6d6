"""The optimiser resumes to the bit, and its schedule is the cosine that the paper names."""

import math

import pytest
import torch
from torch import nn

from system.config.schema import OptimiserConfig
from system.engine.optimisation import (
    build_optimiser,
    optimiser_tensors,
    restore_optimiser,
    set_rate,
)

STEPS = 10


def _parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(3, 2, generator=generator)) for name in ("layer", "feature")
    }


def _steps(
    optimiser: torch.optim.Optimizer,
    config: OptimiserConfig,
    parameters: dict[str, nn.Parameter],
    steps: range,
) -> None:
    for step in steps:
        set_rate(optimiser, config, "cosine", step=step, epoch=0, steps=STEPS, epochs=1)
        optimiser.zero_grad()
        for parameter in parameters.values():
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
        optimiser.step()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_resumed_equals_uninterrupted(name: str) -> None:
    """A run that was killed would otherwise end with other figures."""
    config = OptimiserConfig(name=name, learning_rate=0.1)  # type: ignore[arg-type]
    whole = _parameters()
    _steps(build_optimiser(config, whole), config, whole, range(STEPS))

    first = _parameters()
    optimiser = build_optimiser(config, first)
    _steps(optimiser, config, first, range(4))
    saved = {key: value.clone() for key, value in optimiser_tensors(optimiser).items()}
    second = {key: nn.Parameter(value.detach().clone()) for key, value in first.items()}
    resumed = build_optimiser(config, second)
    restore_optimiser(resumed, saved)
    _steps(resumed, config, second, range(4, STEPS))
    for key in whole:
        assert torch.equal(whole[key], second[key])


def test_cosine_rate_starts_at_the_rate_and_falls() -> None:
    """A schedule that never steps is one of the released code's mistakes."""
    config = OptimiserConfig(learning_rate=0.2)
    optimiser = build_optimiser(config, _parameters())
    rates = []
    for step in range(STEPS):
        set_rate(optimiser, config, "cosine", step=step, epoch=0, steps=STEPS, epochs=1)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates[0] == 0.2
    assert rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1 * (1 + math.cos(0.9 * math.pi)))


def test_a_rate_per_epoch_is_that_of_pytorch_s_own_schedule() -> None:
    """As LPI's released code steps it: 0.05 falls epoch by epoch, and stays within one."""
    config = OptimiserConfig(learning_rate=0.05)
    ours, theirs = (build_optimiser(config, _parameters()) for _ in range(2))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=10)
    for epoch in range(10):
        for step in range(3):
            set_rate(ours, config, "cosine_epochs", step=step, epoch=epoch, steps=3, epochs=10)
            expected = theirs.param_groups[0]["lr"]
            assert ours.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        theirs.step()
        schedule.step()


def test_a_constant_rate_stays() -> None:
    """Diff-Prompt's published training has no schedule."""
    config = OptimiserConfig(learning_rate=0.2)
    optimiser = build_optimiser(config, _parameters())
    for step in range(STEPS):
        set_rate(optimiser, config, "constant", step=step, epoch=0, steps=STEPS, epochs=1)
        assert optimiser.param_groups[0]["lr"] == 0.2


def test_a_rate_of_zero_is_refused() -> None:
    """Nothing would be learned, silently."""
    with pytest.raises(ValueError, match="learning_rate=0"):
        OptimiserConfig(learning_rate=0.0)
