"""Images as a checkpoint of the Grounding DINO family takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from system.config.schema import ImageSizeConfig, SizeRule

# Of an image processor that names none; they are the library's.
DEFAULT_SIDE, DEFAULT_LONGEST = 800, 1333


@dataclass(frozen=True)
class DinoPixels:
    """A `transformers` image processor with another size; picklable.

    A square of `side` pixels, or a shortest side of `side` and a longest of at most `longest`.
    """

    processor: Any
    rule: SizeRule = "squeeze"
    side: int = DEFAULT_SIDE
    longest: int = DEFAULT_LONGEST

    @classmethod
    def of(cls, processor: Any, images: ImageSizeConfig) -> DinoPixels:
        """As the config has it, over squares of the processor's height or its shorter edge.

        Raises ConfigError as `ImageSizeConfig.over` does.
        """
        size = dict(processor.to_dict().get("size") or {})
        side = int(size.get("height") or size.get("shortest_edge") or DEFAULT_SIDE)
        longest = int(size.get("longest_edge") or DEFAULT_LONGEST)
        return cls(processor, *images.over("squeeze", side, max(longest, images.side or side)))

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Pixels (3, H, W); nothing is random, since boxes are those of the whole frame."""
        height, width = self._size(image.height, image.width)
        size = {"height": height, "width": width}
        pixels = self.processor(images=image, size=size, do_pad=False, return_tensors="pt")
        found: Tensor = pixels["pixel_values"][0]
        return found

    def _size(self, height: int, width: int) -> tuple[int, int]:
        from transformers.image_transforms import get_size_with_aspect_ratio

        if self.rule == "squeeze":
            return self.side, self.side
        found = get_size_with_aspect_ratio((height, width), self.side, self.longest)
        # 0 for an image more than about 2 `longest` times as long as wide.
        return max(1, int(found[0])), max(1, int(found[1]))

    def __str__(self) -> str:
        by = "the checkpoint's own image processor"
        if self.rule == "squeeze":
            return f"{by}, to {self.side} x {self.side} pixels"
        return f"{by}, shortest side {self.side:,} pixels, longest at most {self.longest:,}"


def pixel_mask(images: Tensor, sizes: Tensor | None) -> Tensor | None:
    """Mask (B, H, W) of the pixels of images (B, 3, H, W) that are no padding; None: all are."""
    if sizes is None:
        return None
    height, width = images.shape[-2:]
    ends = sizes.to(images.device)[:, :, None]
    rows = torch.arange(height, device=images.device) < ends[:, 0]
    columns = torch.arange(width, device=images.device) < ends[:, 1]
    return (rows[:, :, None] & columns[:, None, :]).long()
