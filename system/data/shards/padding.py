"""Images of unlike sizes as one tensor.

Legend: B batch, H W sides of the tensor.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class PaddedImages(NamedTuple):
    """Images as one tensor, zeros at the right and the bottom of those that are smaller."""

    pixels: Tensor  # (B, 3, H, W)
    sizes: Tensor | None = None  # (B, 2), each one's own height and width; None: all are H, W


def padded_together(images: Sequence[Tensor], multiple: int = 1) -> PaddedImages:
    """Put images (3, h, w) into a tensor of the largest sides, rounded up to a `multiple`.

    Zeros are the mean colour of images that are normalised. What a model makes of an image that is
    padded depends a little on how far, and so on the batch that the image is in, as in GLIP's
    released code. Images of one size that is a multiple are stacked, and depend on nothing.
    """
    sides = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sides, strict=True))
    if set(sides) == {(height, width)}:
        return PaddedImages(torch.stack(list(images)))
    rows = [
        pad(image, (0, width - w, 0, height - h))
        for image, (h, w) in zip(images, sides, strict=True)
    ]
    return PaddedImages(torch.stack(rows), torch.tensor(sides))
