"""The Mask-VAE: diffusers' AutoencoderKL on object masks of one channel, in [-1, 1] or [0, 1].

Legend: B batch, H W mask height and width, C latent channels, h w latent height and width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from torch import Tensor

from system.diff_prompt.settings_digest import LATER
from system.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

RANGES = ((-1, 1), (0, 1))


@dataclass(frozen=True)
class MaskVaeConfig:
    """Sizes of the autoencoder, and the values of its masks.

    Image size, channels and latent channels are the released ones (224 pixels -> 4 x 28 x 28); the
    other defaults are ours, and stage=mask_vae_released has the released ones.
    """

    image_size: int = 224
    channels: tuple[int, ...] = (4, 8, 16, 16)  # of each block; each but the last halves the size
    latent_channels: int = 4
    layers_per_block: int = 1
    norm_groups: int = 4
    # A mask's values outside and inside of the object.
    mask_range: tuple[int, int] = field(default=(-1, 1), metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("latent_channels", "layers_per_block", "norm_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.channels or any(width < 1 for width in self.channels):
            raise ValueError(f"channels={list(self.channels)} must name a width for each block")
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(
                    f"channels={list(self.channels)}: {width} does not divide into "
                    f"norm_groups={self.norm_groups}"
                )
        if self.mask_range not in RANGES:
            known = " or ".join(str(list(each)) for each in RANGES)
            raise ValueError(f"mask_range={list(self.mask_range)} must be {known}")
        if self.image_size < self.shrinks or self.image_size % self.shrinks:
            raise ValueError(
                f"image_size={self.image_size} must be a multiple of {self.shrinks}, by which "
                f"{len(self.channels)} blocks shrink it"
            )

    @property
    def shrinks(self) -> int:
        """How many pixels a latent stands for along one side."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of one mask's latent."""
        side = self.image_size // self.shrinks
        return self.latent_channels, side, side

    @property
    def threshold(self) -> float:
        """What a mask's value is above where the object is."""
        return sum(self.mask_range) / 2

    def ranged(self, signed: Tensor) -> Tensor:
        """Masks from -1 to 1 as masks of `mask_range`."""
        low, high = self.mask_range
        return low + (signed + 1) / 2 * (high - low)

    def signed(self, masks: Tensor) -> Tensor:
        """Masks of `mask_range` as masks from -1 to 1, as pages draw them."""
        low, high = self.mask_range
        return 2 * (masks - low) / (high - low) - 1

    def iou(self, first: Tensor, second: Tensor) -> Tensor:
        """Intersection over union (B,) of masks [B, 1, H, W] in `mask_range`.

        Two masks that both cover nothing agree: 1.
        """
        a, b = first.flatten(1) > self.threshold, second.flatten(1) > self.threshold
        union = (a | b).sum(dim=1)
        overlap = (a & b).sum(dim=1)
        return torch.where(union == 0, 1.0, overlap / union.clamp_min(1))


def build_mask_vae(config: MaskVaeConfig, seed: int) -> AutoencoderKL:
    """An autoencoder with initial weights that depend on the seed alone."""
    from diffusers import AutoencoderKL

    blocks = len(config.channels)
    with torch.random.fork_rng(devices=[]):  # diffusers draws its weights from the global stream
        torch.manual_seed(seed)
        return AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            sample_size=config.image_size,
            scaling_factor=1.0,
        )


@dataclass(frozen=True)
class MaskVaeLoss:
    """The loss and its two terms, scalars; `kl` is before its weight."""

    total: Tensor
    mse: Tensor
    kl: Tensor


def mask_vae_loss(
    reconstruction: Tensor, mask: Tensor, mean: Tensor, logvar: Tensor, *, kl_weight: float
) -> MaskVaeLoss:
    """Reconstruction error and divergence from the standard normal distribution.

    The divergence is summed over the latent's channels and averaged over everything else, so its
    weight does not depend on the number of positions.

    Args:
        reconstruction: [B, 1, H, W].
        mask: [B, 1, H, W], in the range of `MaskVaeConfig`.
        mean: [B, C, h, w] of the latent's distribution.
        logvar: [B, C, h, w], logarithms of its variances.
        kl_weight: the paper's is 0.00037732.

    Raises:
        ConfigError: a negative weight.

    Source: Diff-Prompt (arXiv 2504.21423), stage 1.
    """
    if kl_weight < 0:
        raise ConfigError(f"kl_weight={kl_weight} must be at least 0")
    mse = F.mse_loss(reconstruction.float(), mask.float())
    mean, logvar = mean.float(), logvar.float()
    kl = (-0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(dim=1)).mean()
    return MaskVaeLoss(mse + kl_weight * kl, mse, kl)
