"""How well sampled masks fit: their IoU with the true ones, beside controls that know less.

Legend: n held-out expressions, C latent channels, h w latent height and width, H mask side, K
denoising steps, P width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from system.data.shards.schema import Mask
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig
from system.diff_prompt.mask_vae.object_pixels import object_pixels
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.diff_prompt.prompt_generator.noise import NoiseSchedule
from system.diff_prompt.prompt_generator.sampling import conditioned, ddim_path
from system.engine.encoding import dealt_blocks, in_order
from system.engine.worker_group import WorkerGroup
from system.methods.parts import np_seed, sample_noise

BLOCK = 64  # samples drawn at once
_NOISE, _SHUFFLE = 6, 7  # branches of the seed
_JUDGED = 4096  # training masks that the mean mask is chosen by
_THRESHOLDS = 32


class Draws(Protocol):
    """Makes latents of conditions: by diffusion, or by a regression."""

    @property
    def seed(self) -> int:
        """The seed of whatever is drawn."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        ...

    def path(self, image: Tensor, text: Tensor, samples: Sequence[int]) -> Tensor:
        """Latents (B, K, C, h, w) on the CPU, the clean ones last; see `Sampler.path`."""
        ...


@dataclass(frozen=True)
class Sampler:
    """Draws latents with a trained generator."""

    network: MaskDiT
    schedule: NoiseSchedule
    steps: int
    guidance: float
    seed: int
    device: torch.device

    @torch.inference_mode()
    def path(self, image: Tensor, text: Tensor, samples: Sequence[int]) -> Tensor:
        """Latents (B, K, C, h, w) after each denoising step, the clean ones last.

        Args:
            image: [B, P] embeddings.
            text: [B, P] embeddings.
            samples: B numbers; a sample's noise depends on its number and the seed alone.
        """
        config = self.network.config
        shape = (config.latent_channels, config.latent_size, config.latent_size)
        noise = sample_noise(shape, np_seed(self.seed, _NOISE), list(samples)).to(self.device)
        model = conditioned(
            self.network, image.to(self.device), text.to(self.device), guidance=self.guidance
        )
        path = ddim_path(model, noise, self.schedule, self.steps)
        return torch.stack(list(path), dim=1).cpu()


@dataclass(frozen=True)
class SampledIous:
    """IoU (n,) with the true mask, of what was drawn and of the controls."""

    sampled: Tensor
    random_caption: Tensor  # drawn for the same image and another sample's expression
    mean_mask: Tensor  # one fixed mask for all
    reconstruction: Tensor  # the true mask through the Mask-VAE: the most that can be reached

    def means(self) -> dict[str, float]:
        """The mean of each."""
        return {name: float(values.double().mean()) for name, values in vars(self).items()}


def sampled_ious(
    sampler: Draws,
    vae: MaskDecoder,
    conditions: tuple[Tensor, Tensor],
    masks: Sequence[Mask],
    average: Tensor,
    group: WorkerGroup,
) -> SampledIous:
    """IoUs of n samples with their masks, computed by all workers, on every rank.

    `conditions` are image and text embeddings (n, P), `average` a mask (1, H, H).
    """
    image, text = conditions
    count = len(masks)
    shuffle = np.random.default_rng([sampler.seed, _SHUFFLE]).permutation(count)
    mine = [list(block) for block in dealt_blocks(group, count, BLOCK)]
    parts = [torch.zeros(0, 4)]
    for block in mine:
        true = object_pixels(vae.config, (masks[i] for i in block))
        own = sampler.path(image[block], text[block], block)[:, -1]
        other = sampler.path(image[block], text[shuffle[block]], block)[:, -1]
        parts.append(
            torch.stack(
                [
                    vae.config.iou(_decoded(vae, own, sampler.device), true),
                    vae.config.iou(_decoded(vae, other, sampler.device), true),
                    vae.config.iou(average.expand_as(true), true),
                    vae.config.iou(
                        _decoded(vae, vae.encode(true.to(sampler.device)), sampler.device), true
                    ),
                ],
                dim=1,
            ).float()
        )
    found = in_order(group, torch.cat(parts), [i for block in mine for i in block])
    return SampledIous(*found.unbind(dim=1))


def best_mean_mask(masks: Sequence[Mask], sizes: MaskVaeConfig) -> Tensor:
    """The fixed mask (1, H, H), of the two values of `mask_range`, that fits training masks best.

    Of all places that more than a share of the masks cover, the share with the highest mean IoU.
    """
    step = max(1, len(masks) // _JUDGED)
    pixels = object_pixels(sizes, masks[::step])
    share = (pixels > sizes.threshold).float().mean(dim=0)  # [1, H, H]
    candidates = [
        sizes.ranged(torch.where(share > threshold, 1.0, -1.0))
        for threshold in torch.linspace(0, float(share.max()), _THRESHOLDS)[:-1]
    ]
    fits = [float(sizes.iou(mask.expand_as(pixels), pixels).mean()) for mask in candidates]
    return candidates[int(np.argmax(fits))]


def _decoded(vae: MaskDecoder, latents: Tensor, device: torch.device) -> Tensor:
    return vae(latents.to(device)).cpu()
