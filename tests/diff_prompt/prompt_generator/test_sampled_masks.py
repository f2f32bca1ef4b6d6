"""The figures of stage 2 mean what they say: right pairs, and controls that know less."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT, MaskDitConfig
from system.diff_prompt.prompt_generator.noise import NoiseSchedule
from system.diff_prompt.prompt_generator.sampled_masks import Sampler, best_mean_mask, sampled_ious
from system.engine.worker_group import WorkerGroup
from tests.diff_prompt.mask_files import SIDE, compressed

ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
COUNT = 70  # more than a block


class Told(nn.Module):
    """Predicts the noise that leads to a latent of ones times the text's first entry."""

    config = MaskDitConfig(latent_channels=1, latent_size=SIDE, depth=1, width=8, heads=2)

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.kept = (1 - schedule.betas).cumprod(0).float()

    def forward(self, latent: Tensor, time: Tensor, image: Tensor, text: Tensor) -> Tensor:
        kept = self.kept[time][:, None, None, None]
        wanted = text[:, 0, None, None, None] * stripes(latent)
        noise = (latent - kept.sqrt() * wanted) / (1 - kept).sqrt()
        return torch.cat([noise, noise], dim=1)


def stripes(like: Tensor) -> Tensor:
    """Left half 1, right half -1."""
    side = torch.ones(SIDE)
    side[SIDE // 2 :] = -1
    return side.expand_as(like)


class Identity(MaskDecoder):
    """Latents that are masks."""

    def __init__(self) -> None:
        self.config = MaskVaeConfig(image_size=SIDE, channels=(4,), latent_channels=1)

    def __call__(self, latents: Tensor) -> Tensor:
        return latents

    def encode(self, masks: Tensor) -> Tensor:
        return masks


def test_each_sample_is_compared_with_its_own_mask() -> None:
    """A mix-up of samples over blocks would give figures of other expressions."""
    schedule = NoiseSchedule(steps=10)
    left = np.zeros((SIDE, SIDE), np.uint8)
    left[:, : SIDE // 2] = 1
    sides = [index % 3 == 0 for index in range(COUNT)]  # a third left
    masks = [compressed(left if side else 1 - left) for side in sides]
    text = torch.zeros(COUNT, 8)
    text[:, 0] = torch.tensor([1.0 if side else -1.0 for side in sides])
    sampler = Sampler(
        cast(MaskDiT, Told(schedule)),
        schedule,
        5,
        1.0,
        0,
        torch.device("cpu"),
    )
    average = best_mean_mask(masks, Identity().config)
    ious = sampled_ious(sampler, Identity(), (text, text), masks, average, ALONE)
    assert torch.equal(ious.sampled, torch.ones(COUNT))
    assert torch.equal(ious.reconstruction, torch.ones(COUNT))
    # what the most masks cover is right for two in three; all of the image is half right for all
    assert ious.means()["mean_mask"] == max(sum(not side for side in sides) / COUNT, 0.5)
    # another's expression is right when both are of a side: about 1/9 + 4/9
    assert 0.35 < ious.means()["random_caption"] < 0.75


def test_noise_belongs_to_a_sample_and_a_seed() -> None:
    schedule = NoiseSchedule(steps=10)

    class Silent(Told):
        def forward(self, latent: Tensor, time: Tensor, image: Tensor, text: Tensor) -> Tensor:
            return torch.cat([latent, latent], dim=1) * 0

    sampler = Sampler(
        cast(MaskDiT, Silent(schedule)),
        schedule,
        5,
        1.0,
        0,
        torch.device("cpu"),
    )
    zeros = torch.zeros(2, 8)
    both = sampler.path(zeros, zeros, [4, 9])
    assert torch.equal(sampler.path(zeros[:1], zeros[:1], [9])[0], both[1])
    assert not torch.equal(both[0], both[1])
