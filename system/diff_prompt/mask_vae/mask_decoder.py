"""The frozen Mask-VAE between masks and latents, these scaled or as the encoder gives them.

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
        self,
        config: MaskVaeConfig,
        digest: str,
        load: Callable[[], tuple[AutoencoderKL, float]],
        *,
        scaled: bool = True,
    ) -> None:
        """`load` returns the autoencoder, and what `scaled` latents are multiplied with.

        They then have the standard deviation that the Mask-VAE's stage sets; others are as the
        encoder gives them.
        """
        self.config = config
        self.digest = digest
        self.scaled = scaled
        self._load = load

    @classmethod
    def at(
        cls, folder: Folder, config: MaskVaeConfig, digest: str, *, scaled: bool = True
    ) -> MaskDecoder:
        """The Mask-VAE of a folder; the first use raises StorageError if there is none."""

        def load() -> tuple[AutoencoderKL, float]:
            vae, header = load_mask_vae(folder)
            return vae, header.latent_scale

        return cls(config, digest, load, scaled=scaled)

    @property
    def image_size(self) -> int:
        """Side H of a mask, in pixels."""
        return self.config.image_size

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Masks (n, 1, H, H), about in `config.mask_range`, of latents (n, C, h, w)."""
        vae, scale = self._frozen
        masks: Tensor = vae.to(latents.device).decode(latents / scale).sample
        return masks

    @torch.no_grad()
    def encode(self, masks: Tensor) -> Tensor:
        """Modes (n, C, h, w) of the latents of masks (n, 1, H, H) in `config.mask_range`."""
        return self.posterior(masks)[0]

    @torch.no_grad()
    def posterior(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (n, C, h, w) each of the latents of masks."""
        vae, scale = self._frozen
        found = vae.to(masks.device).encode(masks).latent_dist
        return found.mode() * scale, found.std * scale

    @cached_property
    def _frozen(self) -> tuple[AutoencoderKL, float]:
        vae, scale = self._load()
        return vae.eval().requires_grad_(False), scale if self.scaled else 1.0
