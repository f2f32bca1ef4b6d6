"""Anchors of a pyramid, and boxes written as deltas from them.

Boxes are left, top, right, bottom in pixels, and the right and the bottom pixel are part of the
box: its width is right - left + 1 (the convention of Fast R-CNN, which ATSS and GLIP keep; Li et
al. 2022, arXiv 2112.03857).

Legend: A anchors over all levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from system.results.rec import box_overlap

#: How many deltas there are to an anchor's side: of the centre, and of the log of a side.
CENTRE_WEIGHT, SIDE_WEIGHT = 10.0, 5.0
MOST_LOG = math.log(1000 / 16)  # a box has at most this many logs of its anchor's side


@dataclass(frozen=True)
class Anchors:
    """Squares `boxes` (A, 4), float32, level after level, row after row."""

    boxes: Tensor
    per_level: tuple[int, ...]

    @property
    def centres(self) -> Tensor:
        """The middles (A, 2): x, y."""
        return centres(self.boxes)

    def decode(self, deltas: Tensor) -> Tensor:
        """Boxes (..., A, 4), float32, from deltas (..., A, 4): dx, dy, dw, dh.

        The centre moves by dx / 10 and dy / 10 anchors' sides, and the sides grow by e^(dw / 5) and
        e^(dh / 5), at most 1000 / 16. All zeros are the anchors themselves.
        """
        deltas = deltas.float()
        sides = _sides(self.boxes)
        middle = self.centres + deltas[..., :2] / CENTRE_WEIGHT * sides
        reach = (sides * (deltas[..., 2:] / SIDE_WEIGHT).clamp(max=MOST_LOG).exp() - 1) / 2
        return torch.cat([middle - reach, middle + reach], dim=-1)

    def encode(self, boxes: Tensor) -> Tensor:
        """Deltas (..., A, 4) that `decode` to the boxes (..., A, 4), but for its limit."""
        boxes = boxes.float()
        sides = _sides(self.boxes)
        moved = (centres(boxes) - self.centres) / sides * CENTRE_WEIGHT
        grown = (_sides(boxes) / sides).log() * SIDE_WEIGHT
        return torch.cat([moved, grown], dim=-1)


def pyramid_anchors(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], scale: float, device: torch.device
) -> Anchors:
    """One square anchor per place of levels of `sizes` (H, W), with sides of `scale` strides.

    A level's first anchor is centred on the middle of its first `stride` pixels.

    Raises:
        ValueError: the levels of sizes and strides differ in number.
    """
    levels = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = torch.arange(height, device=device) * stride + (stride - 1) / 2
        x = torch.arange(width, device=device) * stride + (stride - 1) / 2
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        middle = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
        reach = (scale * stride - 1) / 2
        levels.append(torch.cat([middle - reach, middle + reach], dim=1).float())
    return Anchors(torch.cat(levels), tuple(len(level) for level in levels))


def centres(boxes: Tensor) -> Tensor:
    """The middles (..., 2) of boxes (..., 4): x, y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def pixel_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (...) of boxes (..., 4) whose last pixels are part of them; float64.

    It is the plain one of boxes that end where their last pixel ends.
    """
    return box_overlap(_whole(first), _whole(second), "iou")


def _sides(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2] + 1


def _whole(boxes: Tensor) -> Tensor:
    """The boxes up to their last pixels' ends; float64, so that adding 1 rounds nothing."""
    return torch.cat([boxes[..., :2], boxes[..., 2:].double() + 1], dim=-1)
