"""DDIM sampling on diffusers' scheduler: the whole denoising path, and which of it feeds prompts.

Legend: B batch, C latent channels, h w latent height and width, D width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from system.diff_prompt.prompt_generator.noise import NoiseSchedule
from system.errors import ConfigError

#: Predicted noise (B, C, h, w) from latents (B, C, h, w) and one timestep for all of them (B,).
NoiseModel = Callable[[Tensor, Tensor], Tensor]


def ddim_path(
    model: NoiseModel, noise: Tensor, schedule: NoiseSchedule, steps: int
) -> Iterator[Tensor]:
    """The latents after each of `steps` denoising steps, the clean ones last.

    Deterministic (eta 0) and without clipping; every (S / steps)-th training step is taken, the
    noisiest first.

    Args:
        model: sees the timestep of the training schedule, whatever `steps` is.
        noise: [B, C, h, w], standard normal.
        schedule: the one that the model was trained with.
        steps: must divide the training steps.

    Raises:
        ConfigError: steps that do not divide the schedule's.

    Source: DDIM (arXiv 2010.02502), equation 12.
    """
    from diffusers import DDIMScheduler

    if steps < 1 or schedule.steps % steps:
        raise ConfigError(
            f"sampling steps={steps} must divide the {schedule.steps} steps of training"
        )
    scheduler = DDIMScheduler.from_config(
        schedule.scheduler().config, set_alpha_to_one=True, steps_offset=0
    )
    scheduler.set_timesteps(steps)
    latent = noise
    for timestep in scheduler.timesteps:
        time = torch.full((len(latent),), int(timestep), device=latent.device)
        predicted = model(latent, time)
        latent = scheduler.step(predicted, int(timestep), latent, eta=0.0).prev_sample
        yield latent


def conditioned(
    network: nn.Module, image: Tensor, text: Tensor, *, guidance: float = 1.0
) -> NoiseModel:
    """The noise model of a Mask-DiT conditioned on image and text embeddings (B, D).

    With a guidance g other than 1 the network is asked twice, with its condition and with none
    (zeros), and the prediction is none + g (with - none). Source: arXiv 2207.12598. It needs a
    network that was trained with dropped conditions.
    """

    def predict(latent: Tensor, timestep: Tensor) -> Tensor:
        channels = latent.shape[1]
        if guidance == 1.0:
            conditional: Tensor = network(latent, timestep, image, text)
            return conditional[:, :channels]
        both: Tensor = network(
            torch.cat([latent, latent]),
            torch.cat([timestep, timestep]),
            torch.cat([image, torch.zeros_like(image)]),
            torch.cat([text, torch.zeros_like(text)]),
        )
        conditional, unconditional = both[:, :channels].chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return predict
