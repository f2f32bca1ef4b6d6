"""The frozen Mask-VAE between masks and latents of standard deviation 1.

Legend: n latents, C channels, h w latent height and width, H mask side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from system.diff_prompt.mask_vae.mask_vae_files import load_mask_vae
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig
from system.storage.files import Folder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class MaskDecoder:
    """Decodes and encodes; no module, so that no method counts its weights as its own.

    Weights are loaded at the first use: a run is checked before its Mask-VAE is trained.
    """

    def __init__(
        self, config: MaskVaeConfig, digest: str, load: Callable[[], tuple[AutoencoderKL, float]]
    ) -> None:
        self.config = config
        self.digest = digest
        self._load = load

    @classmethod
    def at(cls, folder: Folder, config: MaskVaeConfig, digest: str) -> MaskDecoder:
        """The Mask-VAE of a folder; the first use raises StorageError if there is none."""

        def load() -> tuple[AutoencoderKL, float]:
            vae, header = load_mask_vae(folder)
            return vae, header.latent_scale

        return cls(config, digest, load)

    @property
    def image_size(self) -> int:
        """Side H of a mask, in pixels."""
        return self.config.image_size

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Masks (n, 1, H, H), about -1 to 1, of latents (n, C, h, w) at standard deviation 1."""
        vae, scale = self._frozen
        masks: Tensor = vae.to(latents.device).decode(latents / scale).sample
        return masks

    @torch.no_grad()
    def encode(self, masks: Tensor) -> Tensor:
        """Latents (n, C, h, w) at standard deviation 1 of masks (n, 1, H, H)."""
        vae, scale = self._frozen
        latents: Tensor = vae.to(masks.device).encode(masks).latent_dist.mode() * scale
        return latents

    @cached_property
    def _frozen(self) -> tuple[AutoencoderKL, float]:
        vae, scale = self._load()
        return vae.eval().requires_grad_(False), scale
