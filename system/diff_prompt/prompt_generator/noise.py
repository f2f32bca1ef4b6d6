"""The noise schedule and the training loss with a learned variance, on diffusers' DDPMScheduler.

Legend: B batch, C latent channels, h w latent height and width, S training steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from system.errors import AdapterMismatchError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

ScheduleName = Literal["squaredcos_cap_v2", "linear"]
# Of a linear schedule over 1,000 steps; fewer steps add as much noise in all.
_LINEAR_START, _LINEAR_END, _LINEAR_STEPS = 0.0001, 0.02, 1000
_COSINE_OFFSET = 0.008
_MOST = 0.999  # a step leaves a trace of the signal
_BYTE = 2 / 255  # the distance of two 8-bit levels in [-1, 1], the bins of the last step's decoder
_EDGE = 0.999  # beyond it a level's bin is open to the outside
_SMALL = 1e-12


@dataclass(frozen=True)
class NoiseSchedule:
    """How much noise each training step adds. It belongs to the weights trained with it."""

    name: ScheduleName = "squaredcos_cap_v2"
    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps={self.steps} must be at least 2")
        if self.name == "linear" and self.linear_range[1] >= 1:
            raise ValueError(
                f"steps={self.steps} are too few for name='linear', which then adds more than all "
                "noise in one step; take more than 20, or squaredcos_cap_v2"
            )

    @property
    def linear_range(self) -> tuple[float, float]:
        """Variance that the first and the last step of a linear schedule add."""
        scale = _LINEAR_STEPS / self.steps
        return _LINEAR_START * scale, _LINEAR_END * scale

    @property
    def betas(self) -> Tensor:
        """Variance that each step adds, [S], in double precision.

        Source: DDPM (arXiv 2006.11239) for linear, Improved DDPM (arXiv 2102.09672), equation 17,
        for squaredcos_cap_v2.
        """
        if self.name == "linear":
            return torch.linspace(*self.linear_range, self.steps, dtype=torch.float64)
        time = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        kept = torch.cos((time + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2).square()
        return (1 - kept[1:] / kept[:-1]).clamp_max(_MOST)

    def scheduler(self) -> DDPMScheduler:
        """diffusers' scheduler of training; samplers are made from its config."""
        from diffusers import DDPMScheduler

        # diffusers' own tables are computed in single precision, too coarse for the first step's
        # variational term.
        return DDPMScheduler(
            num_train_timesteps=self.steps,
            trained_betas=self.betas.tolist(),
            variance_type="learned_range",
            clip_sample=False,
        )


def require_same_schedule(trained: NoiseSchedule | None, stated: NoiseSchedule, where: str) -> None:
    """Refuse weights that were trained with another schedule than the settings state.

    Raises AdapterMismatchError naming both: a latent at step t would then hold another amount of
    noise than the network learned to remove at t. To sample with another one, as released, it has
    to be declared as `sampling_schedule`.
    """
    if trained != stated:
        raise AdapterMismatchError(
            f"{where} was trained with the noise schedule {_words(trained)}, not with "
            f"{_words(stated)}; set schedule to the one it was trained with, and, to sample with "
            "another one, sampling_schedule"
        )


@dataclass(frozen=True)
class DiffusionLoss:
    """The loss of each sample (B,) and its two terms."""

    total: Tensor
    mse: Tensor
    variational: Tensor


class DiffusionTraining:
    """Adds noise, and judges what a network makes of it: simple loss + variational term.

    The variance of a step is interpolated, in logarithms, between the smallest and the largest that
    it can have. Its term sees the noise prediction as a constant, so it teaches the variance only.

    Source: Improved DDPM (arXiv 2102.09672), equations 9 to 16; Diff-Prompt (arXiv 2504.21423).
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.scheduler = schedule.scheduler()
        beta = schedule.betas  # [S]
        kept = (1 - beta).cumprod(0)  # share of the signal's variance that is left
        before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
        posterior = beta * (1 - before) / (1 - kept)  # variance of x_{t-1} given x_t and x_0
        self._largest = beta.log()
        # that of the first step is 0, whose logarithm is taken from the second
        self._smallest = torch.cat([posterior[1:2], posterior[1:]]).log()
        self._of_start = beta * before.sqrt() / (1 - kept)
        self._of_noised = (1 - before) * (1 - beta).sqrt() / (1 - kept)
        self._recip = (1 / kept).sqrt()
        self._recip_less_one = (1 / kept - 1).sqrt()

    def add_noise(self, start: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Latents (B, C, h, w) at whole steps (B,) of the schedule."""
        noised: Tensor = self.scheduler.add_noise(start, noise, timestep)
        return noised

    def loss(
        self, output: Tensor, start: Tensor, noise: Tensor, noised: Tensor, timestep: Tensor
    ) -> DiffusionLoss:
        """The loss of a network's output.

        Args:
            output: [B, 2C, h, w], predicted noise, then the variance's place between smallest (-1)
                and largest (1).
            start: [B, C, h, w], the clean latents.
            noise: [B, C, h, w], what was added.
            noised: [B, C, h, w], what the network saw.
            timestep: [B].
        """
        predicted, place = output.float().chunk(2, dim=1)
        mse = (predicted - noise).square().flatten(1).mean(dim=1)
        variational = self._variational(predicted.detach(), place, start, noised, timestep)
        return DiffusionLoss(mse + variational, mse, variational)

    def _variational(
        self, noise: Tensor, place: Tensor, start: Tensor, noised: Tensor, timestep: Tensor
    ) -> Tensor:
        """Bits a dimension (B,) that the step's distribution costs."""

        def at(table: Tensor) -> Tensor:
            """A table's entries of the timesteps, [B, 1, 1, 1]."""
            return table.to(noise)[timestep][:, None, None, None]

        share = (place + 1) / 2
        log_variance = share * at(self._largest) + (1 - share) * at(self._smallest)
        guess = at(self._recip) * noised - at(self._recip_less_one) * noise  # of the clean latent
        mean = at(self._of_start) * guess + at(self._of_noised) * noised
        true_mean = at(self._of_start) * start + at(self._of_noised) * noised
        true_log_variance = at(self._smallest)
        divergence = 0.5 * (
            -1
            + log_variance
            - true_log_variance
            + (true_log_variance - log_variance).exp()
            + (true_mean - mean).square() * (-log_variance).exp()
        )
        surprise = -_binned_log_likelihood(start, mean, 0.5 * log_variance)
        nats = torch.where(at(torch.arange(self.schedule.steps)) == 0, surprise, divergence)
        return nats.flatten(1).mean(dim=1) / math.log(2)


def _binned_log_likelihood(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Logarithm of a normal distribution's mass in the bin of 1/255 on either side of `value`."""
    inverse = (-log_scale).exp()
    upper = _normal_below((value - mean + _BYTE / 2) * inverse)
    lower = _normal_below((value - mean - _BYTE / 2) * inverse)
    inside = torch.where(value > _EDGE, 1 - lower, upper - lower)
    return torch.where(value < -_EDGE, upper, inside).clamp_min(_SMALL).log()


def _normal_below(x: Tensor) -> Tensor:
    """The standard normal distribution function in its usual tanh approximation."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _words(schedule: NoiseSchedule | None) -> str:
    if schedule is None:
        return "none (it is a regression)"
    return f"{schedule.name} over {schedule.steps} steps"
