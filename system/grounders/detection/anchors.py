"""One square anchor at each place of a feature pyramid, and boxes written relative to it.

Legend: B batch, A anchors over all levels. Boxes are left, top, right, bottom, in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Anchors:
    """Squares of side `sides` around `centres`, level after level, row after row."""

    centres: Tensor  # (A, 2): x, y
    sides: Tensor  # (A,)
    per_level: tuple[int, ...]

    @property
    def boxes(self) -> Tensor:
        """The squares (A, 4)."""
        half = self.sides[:, None] / 2
        return torch.cat([self.centres - half, self.centres + half], dim=1)

    def decode(self, distances: Tensor) -> Tensor:
        """Boxes (..., A, 4) from distances of centre to the sides, as logs of half a side.

        All zeros are the anchors themselves.
        """
        reach = distances.clamp(max=MOST_LOG).exp() * (self.sides[:, None] / 2)
        return torch.cat([self.centres - reach[..., :2], self.centres + reach[..., 2:]], dim=-1)


MOST_LOG = 8.0  # e^8 half sides is beyond any image: what keeps exp from overflowing


def pyramid_anchors(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], scale: float, device: torch.device
) -> Anchors:
    """Anchors of levels of `sizes` (H, W) and strides in pixels; sides are `scale` strides."""
    centres, sides = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = (torch.arange(height, device=device) + 0.5) * stride
        x = (torch.arange(width, device=device) + 0.5) * stride
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([columns, rows], dim=-1).reshape(-1, 2))
        sides.append(torch.full((height * width,), scale * stride, device=device))
    return Anchors(torch.cat(centres), torch.cat(sides), tuple(len(level) for level in sides))
