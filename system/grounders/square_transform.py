"""A checkpoint's own image processor, made to squeeze every frame to one square."""

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

DEFAULT_SIDE = 800  # of the square, if the image processor names no size


class SquareTransform:
    """A `transformers` image processor that resizes to a square; picklable."""

    def __init__(self, processor: Any, side: int) -> None:
        self.processor = processor
        self.side = side

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Pixels (3, H, H); nothing is random, since boxes are those of the whole frame."""
        size = {"height": self.side, "width": self.side}
        pixels = self.processor(images=image, size=size, do_pad=False, return_tensors="pt")
        found: Tensor = pixels["pixel_values"][0]
        return found

    def __str__(self) -> str:
        return f"the checkpoint's own image processor, to {self.side} x {self.side} pixels"


def square_side(processor: Any) -> int:
    """Side of the square: the height or the shorter edge that the processor resizes to."""
    size = dict(processor.to_dict().get("size") or {})
    return int(size.get("height") or size.get("shortest_edge") or DEFAULT_SIDE)
