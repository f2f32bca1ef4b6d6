"""Modulated deformable convolution, one tap of one cell at a time."""

from __future__ import annotations

from itertools import product
from math import floor

from torch import Tensor


def deform_by_loop(
    x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    """As `modulated_deform_conv`."""
    height, width = x.shape[-2:]
    result = bias.view(1, -1, 1, 1).repeat(len(x), 1, *offset.shape[-2:])
    for b, r, c, k in product(*map(range, (len(x), *offset.shape[-2:], 9))):
        down = r * stride - 1 + k // 3 + offset[b, 2 * k, r, c]
        right = c * stride - 1 + k % 3 + offset[b, 2 * k + 1, r, c]
        if -1 < down < height and -1 < right < width:
            top, left = floor(down.item()), floor(right.item())
            for i, j in product((top, top + 1), (left, left + 1)):
                if 0 <= i < height and 0 <= j < width:
                    read = x[b, :, i, j] * (1 - (down - i).abs()) * (1 - (right - j).abs())
                    result[b, :, r, c] += weight[..., k // 3, k % 3] @ read * modulation[b, k, r, c]
    return result
