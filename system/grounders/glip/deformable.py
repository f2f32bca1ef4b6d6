"""Modulated deformable convolution, 3 x 3 (Zhu et al. 2019, "Deformable ConvNets v2", arXiv
1811.11168).

Legend: B batch, C channels, O output channels, H W the input's sides, h w the output's, P output
cells of a chunk.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, linear, pad
from torch.utils.checkpoint import checkpoint

TAPS = 9  # of a 3 x 3 kernel, row by row
#: Most memory of a chunk's sampled values, in bytes; the results do not depend on it.
CHUNK_BYTES = 64 * 2**20


def modulated_deform_conv(
    x: Tensor,
    offset: Tensor,
    modulation: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
) -> Tensor:
    """Convolution (B, O, h, w) of x (B, C, H, W), padding 1, whose taps are moved and weighted.

    `offset` (B, 18, h, w) holds (dy, dx) of each tap in input cells, `modulation` (B, 9, h, w) its
    weight; `weight` is (O, C, 3, 3), `bias` (O,). A tap at y, x reads bilinearly with zeros outside
    the map, and nothing (no gradient to its offset either) unless -1 < y < H and -1 < x < W.

    Computes in float32 or wider, also under autocast, where the result stays in it; else the
    result has the type of `x`. Sampled values are computed again in the backward pass, so memory
    beyond the arguments and the result is about `CHUNK_BYTES`.
    """
    size = offset.shape[-2:]
    expected = tuple((side - 1) // stride + 1 for side in x.shape[-2:])
    if offset.shape[1] != 2 * TAPS or modulation.shape[1] != TAPS or size != expected:
        raise ValueError(
            f"offsets {tuple(offset.shape)} and modulation {tuple(modulation.shape)} must have "
            f"{2 * TAPS} and {TAPS} channels and the output's size {expected}"
        )
    device = x.device.type
    wide = torch.promote_types(x.dtype, torch.float32)
    result = wide if torch.is_autocast_enabled(device) else x.dtype
    with torch.autocast(device, enabled=False):
        x, offset, modulation, weight = (
            given.to(wide) for given in (x, offset, modulation, weight)
        )
        bias = None if bias is None else bias.to(wide)
        return _convolve(x, offset, modulation, weight, bias, stride).to(result)


def leading_numbers(values: Tensor, height: int, width: int) -> Tensor:
    """The first of each sample's numbers (B, k, H, W) as (B, k, height, width).

    GLIP's released kernel reads offsets and modulation of a finer level so where its output is a
    coarser one: by the output's strides, whatever shape they have. That is no crop and no resize,
    but the published weights were trained with it. Gradients go to just these numbers.
    """
    channels = values.shape[1]
    leading = values.flatten(1)[:, : channels * height * width]
    return leading.view(-1, channels, height, width)


def _convolve(
    x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, bias: Tensor | None, stride: int
) -> Tensor:
    channels = x.shape[1]
    height, width = offset.shape[-2:]
    kernel = weight.permute(0, 2, 3, 1).flatten(1)  # (O, 9C): taps, then channels
    row_bytes = width * TAPS * channels * x.element_size()
    rows = max(1, CHUNK_BYTES // row_bytes)
    samples = max(1, rows // height)  # per chunk: whole samples or, if too large, rows of one
    rows = min(rows, height)
    found = []
    for part, *shifts in zip(
        *(torch.split(each, samples) for each in (x, offset, modulation)), strict=True
    ):
        table = pad(part, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        chunks = zip(*(torch.split(each, rows, dim=-2) for each in shifts), strict=True)
        # The checkpoint computes the sampled values again instead of keeping them.
        bands: list[Tensor] = [
            checkpoint(
                partial(_rows, start=number * rows, stride=stride),
                *(table, *chunk, kernel, bias),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for number, chunk in enumerate(chunks)
        ]
        found.append(torch.cat(bands, dim=1))
    return torch.cat(found).permute(0, 3, 1, 2)


def _rows(
    table: Tensor,
    offset: Tensor,
    modulation: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    start: int,
    stride: int,
) -> Tensor:
    """Rows (B, h, w, O) of the result from row `start` on; `table` (B, H + 2, W + 2, C) is padded
    with zeros, `offset` (B, 18, h, w) and `modulation` (B, 9, h, w) are the rows' own.
    """
    cells, weights = _corners(table, offset, modulation, start, stride)
    sampled = embedding_bag(
        cells.view(-1, 4),
        table.reshape(-1, table.shape[-1]),
        mode="sum",
        per_sample_weights=weights.reshape(-1, 4),
    )
    batch, _, height, width = offset.shape
    return linear(sampled.view(batch, height, width, -1), kernel, bias)


def _corners(
    table: Tensor, offset: Tensor, modulation: Tensor, start: int, stride: int
) -> tuple[Tensor, Tensor]:
    """The four cells of the table that each tap reads, and their weights, both (B, h, w, 9, 4)."""
    batch, _, height, width = offset.shape
    rows, columns = table.shape[1:3]
    count = partial(torch.arange, dtype=offset.dtype, device=offset.device)
    side = count(-1, 2)
    taps = torch.cartesian_prod(side, side)  # (9, 2), row by row
    centres = torch.cartesian_prod(
        stride * count(start, start + height),
        stride * count(width),
    ).view(height, width, 1, 2)
    moved = offset.view(batch, TAPS, 2, height, width).permute(0, 3, 4, 1, 2).contiguous()
    place = moved + (centres + taps)  # (B, h, w, 9, 2)
    limits = offset.new_tensor([rows - 2, columns - 2])
    # A tap outside reads the padding's first corner, and no gradient passes; so does NaN.
    place = torch.where((place > -1) & (place < limits), place, -1.0)
    low = place.detach().floor()
    share = place - low
    shares = torch.stack((1 - share, share), dim=-1)  # (B, h, w, 9, 2, 2): axis, low or high
    weights = shares[..., 0, :, None] * shares[..., 1, None, :]
    weights = weights.flatten(-2) * modulation.permute(0, 2, 3, 1)[..., None]
    first = (low.long() + 1) @ torch.tensor([columns, 1], device=low.device)
    first = first + torch.arange(batch, device=low.device).view(-1, 1, 1, 1) * rows * columns
    corners = torch.tensor([0, 1, columns, columns + 1], device=low.device)
    return first[..., None] + corners, weights
