from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from system.diff_prompt.prompt_generator.noise import (
    DiffusionTraining,
    NoiseSchedule,
    ScheduleName,
    require_same_schedule,
)
from system.errors import AdapterMismatchError


@pytest.mark.parametrize("name", ["squaredcos_cap_v2", "linear"])
def test_schedule_is_the_one_that_diffusers_knows_by_that_name(name: ScheduleName) -> None:
    """Weights trained here could otherwise not be sampled by any other diffusers pipeline."""
    schedule = NoiseSchedule(name, 50)
    start, end = schedule.linear_range
    theirs = DDPMScheduler(50, beta_schedule=name, beta_start=start, beta_end=end)
    torch.testing.assert_close(schedule.scheduler().betas, theirs.betas, rtol=1e-4, atol=1e-7)


def test_variance_term_does_not_teach_the_noise() -> None:
    """It would pull the noise prediction away from the simple loss, against the paper."""
    training = DiffusionTraining(NoiseSchedule())
    draw = torch.Generator().manual_seed(0)
    start, noise = torch.randn(2, 4, 2, 4, 4, generator=draw).unbind()
    timestep = torch.tensor([0, 1, 50, 99])
    noised = training.add_noise(start, noise, timestep)
    output = torch.randn(4, 4, 4, 4, generator=draw, requires_grad=True)
    loss = training.loss(output, start, noise, noised, timestep)
    (gradient,) = torch.autograd.grad(loss.variational.sum(), output)
    assert gradient[:, :2].abs().max() == 0
    assert (gradient[:, 2:].abs().amax(dim=(1, 2, 3)) > 0).all()


def test_exact_noise_and_smallest_variance_cost_nothing_after_the_first_step() -> None:
    training = DiffusionTraining(NoiseSchedule())
    draw = torch.Generator().manual_seed(0)
    start, noise = torch.randn(2, 3, 2, 4, 4, generator=draw).unbind()
    timestep = torch.tensor([1, 10, 60])
    noised = training.add_noise(start, noise, timestep)
    output = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    loss = training.loss(output, start, noise, noised, timestep)
    torch.testing.assert_close(loss.total, torch.zeros(3), atol=1e-4, rtol=0)


def test_another_schedule_than_trained_is_refused() -> None:
    """The released code trains on one and samples on another; nobody notices but the figures."""
    trained = NoiseSchedule("linear", 100)
    require_same_schedule(trained, NoiseSchedule("linear", 100), "weights")
    with pytest.raises(AdapterMismatchError, match=r"linear over 100 steps.*squaredcos_cap_v2"):
        require_same_schedule(trained, NoiseSchedule(), "weights")


def test_linear_schedule_of_too_few_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps=20"):
        NoiseSchedule("linear", 20)
