"""The checkpoint's preprocessing on bytes: resized on the host, normalised on the device.

A pixel stays a byte until its batch is on the device, so that loading, copying and keeping an image
cost a quarter of what floats cost. The bytes are those of the checkpoint's image processor, and on
a CPU so are the floats, to the bit.

`inputs.pixels=vector` resizes what shrinks by PyTorch's kernel, which computes Pillow's sums with
vector instructions and shorter weights. Of 500 million bytes of smooth pictures, noise, stripes and
dithered pictures, one in 200 was a level (of 255) apart and one in 500,000 two, never more; of the
dithered ones alone, which are the worst, one in 70 and one in 50,000.

JPEG's draft mode, which decodes at a half, quarter or eighth of the size, is no part of this: even
at twice the target size sharp edges come out up to 17 levels off (see the test).

Legend: B batch, S side of the model's square.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from system.backbones.image_transform import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    described,
    random_crop,
)
from system.config.schema import Augmentation, InputConfig

# A view of Pillow's bytes, which nothing here writes to.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

#: Processors whose steps are those of `Uint8Transform`; a subclass may do anything else.
KNOWN = ("CLIPImageProcessorPil", "SiglipImageProcessorPil")
LEVELS = 255
_ALWAYS_ON = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize")
#: Pillow may resize a tall image's columns first, which rounds differently: up to 16 levels.
_TALLEST = 1.75
_SLACK = 1.02  # of the two sides' scales, which truncation to whole pixels makes unlike
Constants = tuple[Tensor, Tensor, Tensor]  # levels (), mean and deviation (3, 1, 1)


@dataclass(frozen=True)
class ProcessorSteps:
    """The steps of an image processor that `Uint8Transform` knows: resize, crop, normalise."""

    side: int  # S
    whole: (
        bool  # the image is squeezed to the square; else its shorter side fits, and it is cropped
    )
    shortest: int  # side of the resized image
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, processor: Any, side: int) -> ProcessorSteps | None:
        """Those of a `transformers` image processor for squares of `side`; None: not known."""
        if type(processor).__name__ not in KNOWN:
            return None
        if not all(getattr(processor, name, None) for name in _ALWAYS_ON):
            return None
        if getattr(processor, "do_pad", None) or processor.resample != Image.Resampling.BICUBIC:
            return None
        if processor.rescale_factor != 1 / LEVELS:
            return None
        mean, std = (_of_channels(value) for value in (processor.image_mean, processor.image_std))
        size = {name: value for name, value in dict(processor.size).items() if value}
        square = {"height": side, "width": side}
        crops = bool(getattr(processor, "do_center_crop", None))
        if mean is None or std is None or (crops and dict(processor.crop_size) != square):
            return None
        if size == square:
            return cls(side, True, side, mean, std)
        # A crop that is larger than the image would be padded.
        if crops and set(size) == {"shortest_edge"} and size["shortest_edge"] >= side:
            return cls(side, False, size["shortest_edge"], mean, std)
        return None


class Uint8Transform:
    """What `ProcessorTransform` does, as bytes (3, S, S) and `normalise`; picklable.

    Computed without the interpreter's lock but for a few calls, so that threads scale.
    """

    def __init__(
        self, steps: ProcessorSteps, inputs: InputConfig, augmentation: Augmentation
    ) -> None:
        self.steps = steps
        self.inputs = inputs
        self.augmentation = augmentation
        imagenet = inputs.normalisation == "imagenet"
        self.mean = IMAGENET_MEAN if imagenet else steps.mean
        self.std = IMAGENET_STD if imagenet else steps.std

    @classmethod
    def of(
        cls, processor: Any, image_size: int, inputs: InputConfig, augmentation: Augmentation
    ) -> Uint8Transform | None:
        """The transform that stands for an image processor; None for one that it does not know."""
        steps = ProcessorSteps.of(processor, image_size)
        return None if steps is None else cls(steps, inputs, augmentation)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Bytes (3, S, S); `rng` drives the augmentation, None asks for evaluation's."""
        steps = self.steps
        if image.mode != "RGB":
            image = image.convert("RGB")
        crop = random_crop(image, steps.side, self.inputs, self.augmentation, rng)
        if crop is not None:
            return planes(crop)
        resize = resized_by_vectors if self.inputs.pixels == "vector" else resized
        if self.inputs.resize == "squeeze" or steps.whole:
            return resize(image, steps.side, steps.side)
        width, height = image.size
        if width <= height:
            size = steps.shortest, int(steps.shortest * height / width)
        else:
            size = int(steps.shortest * width / height), steps.shortest
        left, top = ((length - steps.side) // 2 for length in size)
        pixels = resize(image, *size)
        return pixels[:, top : top + steps.side, left : left + steps.side].contiguous()

    def normalise(self, images: Tensor) -> Tensor:
        """Float32 (B, 3, S, S) of bytes (B, 3, S, S), on their device."""
        # In this order, and by a division, the result is the processor's to the bit on a CPU.
        levels, mean, std = _constants(self.mean, self.std, images.device)
        return images.float().div_(levels).sub_(mean).div_(std)

    @property
    def cache_key(self) -> str | None:
        """What the bytes of an image depend on beside the image; None where a crop is random."""
        if "crop_flip" in (self.augmentation, self.inputs.evaluation_augmentation):
            return None
        steps, squeezed = self.steps, self.inputs.resize == "squeeze"
        size = [steps.side, squeezed or steps.whole or steps.shortest]
        return f"bicubic {self.inputs.pixels} {json.dumps(size)}"

    def __str__(self) -> str:
        resizes = ", resized by vector instructions" if self.inputs.pixels == "vector" else ""
        return f"{described(self.inputs)}{resizes}"


def resized(image: Image.Image, width: int, height: int) -> Tensor:
    """An RGB image's bytes (3, height, width) by Pillow's bicubic filter."""
    return planes(image.resize((width, height), Image.Resampling.BICUBIC))


def resized_by_vectors(image: Image.Image, width: int, height: int) -> Tensor:
    """The same by PyTorch's kernel where that is within two levels of it, several times faster."""
    if not _like_pillow(image.size, (width, height)):
        return resized(image, width, height)
    pixels = _rgbx(image).permute(2, 0, 1)[None]
    return interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0, :3].contiguous()


def planes(image: Image.Image) -> Tensor:
    """An RGB image's bytes (3, H, W)."""
    return _rgbx(image)[..., :3].permute(2, 0, 1).contiguous()


def _rgbx(image: Image.Image) -> Tensor:
    """Bytes (H, W, 4), the last of them unused: as Pillow holds them, so that none moves alone."""
    width, height = image.size
    buffer = image.tobytes("raw", "RGBX")
    return torch.frombuffer(buffer, dtype=torch.uint8).view(height, width, 4)


def _like_pillow(source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether PyTorch's resize is close to Pillow's: both sides shrink, and rows go first."""
    (width, height), (to_width, to_height) = source, target
    return (
        width >= to_width
        and height >= to_height
        and height <= _TALLEST * width
        and height * to_width <= _SLACK * width * to_height
    )


@lru_cache
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Constants:
    # Made once: a tensor of the host's values makes the host wait for a GPU. Training shares them
    # with evaluation, which is in inference mode.
    with torch.inference_mode(False):
        made = (torch.tensor(float(LEVELS)), *(torch.tensor(v)[:, None, None] for v in (mean, std)))
        levels, means, deviations = (constant.to(device) for constant in made)
    return levels, means, deviations


def _of_channels(values: Any) -> tuple[float, ...] | None:
    values = (values,) * 3 if isinstance(values, int | float) else tuple(values or ())
    return tuple(map(float, values)) if len(values) == 3 else None
