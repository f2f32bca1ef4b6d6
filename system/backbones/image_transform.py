"""Preprocessing of images for a backbone, and the augmentations of training.

By default an image goes through the checkpoint's own image processor; see `InputConfig` for what
else there is, and `Uint8Transform` for the same in fewer steps.
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from system.config.schema import Augmentation, InputConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def random_resized_crop(
    image: Image.Image, size: int, rng: np.random.Generator, min_area: float = 0.08
) -> Image.Image:
    """A crop of random area and aspect ratio, resized to (size, size), half of the time mirrored.

    Area between `min_area` and 1 of the image, aspect between 3/4 and 4/3 (log-uniform): the crop
    of Szegedy et al. 2015, "Going deeper with convolutions". Falls back to the central square.
    """
    width, height = image.size
    crop = None
    for _ in range(10):
        area = width * height * rng.uniform(min_area, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            crop = (left, top, left + w, top + h)
            break
    if crop is None:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        crop = (left, top, left + side, top + side)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=crop)
    if rng.random() < 0.5:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return resized


def random_crop(
    image: Image.Image,
    size: int,
    inputs: InputConfig,
    augmentation: Augmentation,
    rng: np.random.Generator | None,
) -> Image.Image | None:
    """The image as it is cropped at random, (size, size); None where it is not.

    `augmentation` is that of training, with a generator; without one, `inputs` say.
    """
    if (inputs.evaluation_augmentation if rng is None else augmentation) != "crop_flip":
        return None
    if rng is None:
        # LPI's released code crops at random in evaluation too; the image's own bytes seed
        # the crop here, so that a metric is reproducible and independent of the batch.
        rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    return random_resized_crop(image, size, rng)


class ProcessorTransform:
    """A `transformers` image processor behind our transform interface; picklable.

    Returns float32 (3, H, W). `inputs` say how images are normalised and resized, and whether one
    without a generator is cropped at random too.
    """

    def __init__(
        self, processor: Any, image_size: int, inputs: InputConfig, augmentation: Augmentation
    ) -> None:
        self.processor = processor
        self.image_size = image_size
        self.inputs = inputs
        self.augmentation = augmentation

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Pixels (3, H, W); `rng` drives the augmentation, None asks for evaluation's."""
        options: dict[str, Any] = {}
        square = {"do_resize": False, "do_center_crop": False}
        crop = random_crop(image, self.image_size, self.inputs, self.augmentation, rng)
        if crop is not None:
            image, options = crop, square
        elif self.inputs.resize == "squeeze":
            side = (self.image_size, self.image_size)
            image, options = image.resize(side, Image.Resampling.BICUBIC), square
        if self.inputs.normalisation == "imagenet":
            options = options | {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
        pixels = self.processor(images=image, return_tensors="pt", **options)["pixel_values"]
        assert isinstance(pixels, torch.Tensor)
        return pixels[0]

    def normalise(self, images: Tensor) -> Tensor:
        """The images as they are: the processor has normalised them."""
        return images

    #: Nothing of it is kept in a pixel cache: floats take four times the room.
    cache_key: str | None = None

    def __str__(self) -> str:
        return described(self.inputs)


def described(inputs: InputConfig) -> str:
    """What happens to an image, for a run's outcome."""
    said = []
    if inputs.evaluation_augmentation == "crop_flip":
        said.append("a random crop, half of them mirrored")
    elif inputs.resize == "squeeze":
        said.append("squeezed to the model's square")
    if inputs.normalisation == "imagenet":
        said.append("ImageNet's mean and deviation")
    return ", ".join(said) or "the checkpoint's own image processor"
