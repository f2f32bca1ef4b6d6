"""How an image becomes what a GLIP sees, as its released code has it.

Its box corners are those of pixels: see `Pictures.box_end`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from system.config.schema import ImageSizeConfig, SizeRule

Size = tuple[int, int]  # width and height, in pixels

#: A batch is padded to multiples of so many pixels.
SIDE_MULTIPLE = 32
_RESAMPLING: Mapping[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Pictures:
    """Preprocessing of images; the defaults are GLIP's (Li et al. 2022, and its released code).

    `size_rule` squeeze brings an image to `image_size` x `image_size`; shortest keeps its aspect
    ratio: see `shortest_side`. Then `mean` and `std`, in the order of `channels` and of values from
    0 to 255, bring it to the range that the model was trained on. `box_end` is where boxes to be
    learned end: at the middle of their last pixel, or at its edge, as annotations mean it.
    """

    size_rule: SizeRule = "shortest"
    image_size: int = 800
    longest: int = 1333
    channels: Literal["rgb", "bgr"] = "bgr"
    resampling: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (103.53, 116.28, 123.675)
    std: tuple[float, ...] = (57.375, 57.12, 58.395)
    box_end: Literal["last_pixel", "edge"] = "last_pixel"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size={self.image_size} must be at least 1")
        if self.size_rule == "shortest" and self.longest < self.image_size:
            raise ValueError(
                f"longest={self.longest} is below image_size={self.image_size}, the shortest side"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                raise ValueError(f"{name} has {len(values)} values, but an image three channels")

    def resized(self, images: ImageSizeConfig) -> "Pictures":
        """The same with the image size that the config asks for. Raises ConfigError."""
        rule, side, longest = images.over(self.size_rule, self.image_size, self.longest)
        return replace(self, size_rule=rule, image_size=side, longest=longest)

    @property
    def square_side(self) -> int | None:
        """Side of images with their padding; None where they are of many sizes."""
        if self.size_rule == "shortest":
            return None
        return -(-self.image_size // SIDE_MULTIPLE) * SIDE_MULTIPLE

    def size(self, width: int, height: int) -> Size:
        """Width and height that an image of these is brought to."""
        if self.size_rule == "squeeze":
            return self.image_size, self.image_size
        return shortest_side(width, height, self.image_size, self.longest)


class GlipPixels:
    """Brings an image to the size, the channels and the range that a GLIP takes; picklable.

    A box as shares of the sides stays where it is. No augmentation: one that moved the image would
    have to move boxes and words like "left" too.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Pixels (3, H, W), float32; `rng` is not used."""
        size = self.pictures.size(image.width, image.height)
        resized = image.convert("RGB").resize(size, _RESAMPLING[self.pictures.resampling])
        pixels = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float()
        if self.pictures.channels == "bgr":
            pixels = pixels.flip(0)
        mean, std = (
            torch.tensor(values)[:, None, None]
            for values in (self.pictures.mean, self.pictures.std)
        )
        return (pixels - mean) / std

    def __str__(self) -> str:
        side, longest = self.pictures.image_size, self.pictures.longest
        if self.pictures.size_rule == "squeeze":
            return f"squeezed to {side} x {side} pixels"
        return f"shortest side {side:,} pixels, longest up to about {longest:,}"


def shortest_side(width: int, height: int, shortest: int, longest: int) -> Size:
    """Width and height of an image whose shortest side becomes `shortest`, as GLIP's code has it.

    If its longest side would then be above `longest`, the shortest becomes less. That is rounded to
    whole pixels first, so that the longest can still be above: by a few pixels, or by more where an
    image is only a few wide. One whose shortest side is right already is left alone. The released
    code fails for an image more than about 2 `longest` times as long as it is wide; here it becomes
    one pixel wide and `longest` long.
    """
    small, large = sorted((width, height))
    if large / small * shortest > longest:
        shortest = round(longest * small / large)
    if small == shortest:
        return width, height
    other = int(shortest * large / small) if shortest else longest
    shortest = max(shortest, 1)
    return (shortest, other) if width < height else (other, shortest)


def last_pixel_boxes(boxes: Tensor, width: int, height: int) -> Tensor:
    """Boxes (n, 4) in shares of an image, up to the middle of their last pixel.

    GLIP learns annotations (x, y, w, h) as (x, y, x + w - 1, y + h - 1) in pixels of the image
    before it is resized, clamped to its pixels 0 to W - 1 and 0 to H - 1. Those that have no extent
    left, one pixel wide or outside, it drops; here a box keeps the end that it had.
    """
    sides = boxes.new_tensor([width, height, width, height])
    most = (sides - 1) / sides
    ends = boxes.new_tensor([0, 0, 1, 1]) / sides
    last = torch.minimum((boxes - ends).clamp_min(0), most)
    kept = (last[:, 2:] > last[:, :2]).all(dim=1, keepdim=True)
    return torch.where(kept, last, boxes)
