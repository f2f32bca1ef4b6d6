"""Objects' masks as pixels in the range that a Mask-VAE works in."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from system.data.shards.masks import mask_area
from system.data.shards.schema import Mask
from system.data.shards.split_objects import mask_pixels
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig


def object_pixels(sizes: MaskVaeConfig, masks: Iterable[Mask]) -> Tensor:
    """Rasterise masks as [n, 1, H, H] in `sizes.mask_range`; one without area is all outside."""
    return sizes.ranged(torch.stack([_signed(mask, sizes.image_size) for mask in masks]))


def _signed(mask: Mask, size: int) -> Tensor:
    return mask_pixels(mask, size) if mask_area(mask) else torch.full((1, size, size), -1.0)
