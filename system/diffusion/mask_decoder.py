"""The frozen half of a Mask-VAE that turns latents into masks.

Legend: n latents, C channels, h w latent height and width, H mask side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from system.diffusion.mask_vae_files import load_mask_vae
from system.storage.files import Folder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class MaskDecoder:
    """Decodes scaled latents; no module, so that no method counts its weights as its own."""

    def __init__(self, vae: AutoencoderKL, scale: float, digest: str) -> None:
        self._vae = vae.eval().requires_grad_(False)
        self.scale = scale
        self.digest = digest

    @classmethod
    def load(cls, folder: Folder) -> MaskDecoder:
        """The decoder of a trained Mask-VAE. Raises StorageError if there is none."""
        vae, header = load_mask_vae(folder)
        return cls(vae, header.latent_scale, header.digest)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of a latent."""
        config = self._vae.config
        side = config.sample_size // 2 ** (len(config.block_out_channels) - 1)
        return config.latent_channels, side, side

    @property
    def image_size(self) -> int:
        """Side H of a mask, in pixels."""
        side: int = self._vae.config.sample_size
        return side

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Masks (n, 1, H, H), about -1 to 1, of latents (n, C, h, w) at standard deviation 1."""
        vae = self._vae.to(latents.device)
        masks: Tensor = vae.decode(latents / self.scale).sample
        return masks

    @torch.no_grad()
    def encode(self, masks: Tensor) -> Tensor:
        """Latents (n, C, h, w) at standard deviation 1 of masks (n, 1, H, H)."""
        vae = self._vae.to(masks.device)
        latents: Tensor = vae.encode(masks).latent_dist.mode() * self.scale
        return latents
