"""Modulated deformable convolution, 3 x 3 (Zhu et al. 2019, "Deformable ConvNets v2", arXiv
1811.11168).

Legend: B batch, C channels, O output channels, H W the input's sides, h w the output's.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding_bag, linear, pad
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

TAPS = 9  # of a 3 x 3 kernel, row by row
#: Most memory of the values sampled at a time, in bytes.
CHUNK_BYTES = 64 * 2**20
#: What a tap's place, corners and their weights take, in numbers.
PLACE_NUMBERS = 36


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
    result has the type of `x`. At most about `CHUNK_BYTES` of sampled values exist at a time, in
    both passes. On accelerators torchvision's kernel is used if it is installed. Raises ValueError
    for offsets or modulation of another size than the result's.
    """
    size = output_size(x, stride)
    for name, given, channels in (("offset", offset, 2 * TAPS), ("modulation", modulation, TAPS)):
        expected = (len(x), channels, *size)
        if given.shape != expected:
            raise ValueError(f"{name} is of shape {tuple(given.shape)} instead of {expected}")
    device = x.device.type
    wide = torch.promote_types(x.dtype, torch.float32)
    result = wide if torch.is_autocast_enabled(device) else x.dtype
    with torch.autocast(device, enabled=False):
        x, offset, modulation, weight = (
            given.to(wide) for given in (x, offset, modulation, weight)
        )
        bias = None if bias is None else bias.to(wide)
        row_bytes = size[1] * TAPS * (x.shape[1] + PLACE_NUMBERS) * x.element_size()
        rows = max(1, CHUNK_BYTES // row_bytes)
        samples = max(1, rows // size[0])
        convolve = _implementation(x.device)
        found = [
            convolve(some, moved, modulated, weight, bias, stride, rows)
            for some, moved, modulated in zip(
                torch.split(x, samples),
                torch.split(offset, samples),
                torch.split(modulation, samples),
                strict=True,
            )
        ]
        return torch.cat(found).to(result)


def output_size(x: Tensor, stride: int) -> tuple[int, int]:
    """Sides (h, w) of the convolution of x (B, C, H, W)."""
    return (x.shape[-2] - 1) // stride + 1, (x.shape[-1] - 1) // stride + 1


def leading_numbers(values: Tensor, size: tuple[int, int]) -> Tensor:
    """The first of each sample's numbers (B, k, H, W) as (B, k, *size).

    GLIP's released kernel gets a finer level's offsets and modulation where its output is a coarser
    level, and reads them by the output's strides, whatever their shape. That is no crop and no
    resize, but the published weights were trained with it. Gradients go to just these numbers.
    """
    if values.shape[-2:] == size:
        return values
    batch, channels = values.shape[:2]
    leading = values.flatten(1)[:, : channels * size[0] * size[1]]
    return leading.view(batch, channels, *size)


def _implementation(device: torch.device) -> Callable[..., Tensor]:
    # On a CPU torchvision's kernel is several times as slow (it uses one thread and no vectors).
    on_accelerator = device.type != "cpu" and _torchvision_kernel() is not None
    return _torchvision_samples if on_accelerator else _samples


@cache
def _torchvision_kernel() -> Callable[..., Tensor] | None:
    try:
        operators: Any = import_module("torchvision.ops")
    except (ImportError, RuntimeError, OSError):  # the latter two: built for another torch
        return None
    kernel: Callable[..., Tensor] = operators.deform_conv2d
    return kernel


def _torchvision_samples(
    x: Tensor,
    offset: Tensor,
    modulation: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    rows: int,
) -> Tensor:
    """As `_samples`, but all rows at once: what the kernel samples it does not keep either."""
    kernel = _torchvision_kernel()
    assert kernel is not None
    return kernel(x, offset, weight, bias, stride=(stride, stride), padding=(1, 1), mask=modulation)


def _samples(
    x: Tensor,
    offset: Tensor,
    modulation: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    rows: int,
) -> Tensor:
    """The result of some samples, `rows` rows of it at a time."""
    # The input's cells, channels last, in a border of zeros: (R, C).
    table = pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).flatten(0, 2)
    sides = (x.shape[2], x.shape[3])
    kernel = weight.permute(0, 2, 3, 1).flatten(1)  # (O, 9C): taps, then channels
    shifts = (torch.split(given, rows, dim=2) for given in (offset, modulation))
    bands: list[Tensor] = []
    for index, (moved, modulated) in enumerate(zip(*shifts, strict=True)):
        cells, weights = _corners(moved, modulated, sides, index * rows, stride)
        arguments = (table, cells, weights, kernel, bias)
        if kernel.requires_grad:
            # Its gradient needs the sampled values; a checkpoint samples them again.
            band = checkpoint(_product, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            band = _product(*arguments)
        bands.append(band.view(len(x), *moved.shape[2:], len(weight)))
    return torch.cat(bands, dim=1).permute(0, 3, 1, 2)


def _product(
    table: Tensor, cells: Tensor, weights: Tensor, kernel: Tensor, bias: Tensor | None
) -> Tensor:
    """Result (P, O) of P output cells, of whose taps (P * 9, 4) each reads four of the table."""
    # One fused pass over the four corners. Its own gradient of the table takes two to four times
    # as long as the one here.
    sampled = embedding_bag(cells, table.detach(), mode="sum", per_sample_weights=weights)
    sampled = _TableGradient.apply(sampled, table, cells, weights.detach())  # type: ignore[no-untyped-call]
    return linear(sampled.view(-1, kernel.shape[1]), kernel, bias)


class _TableGradient(Function):
    """Identity of sampled rows (P, C) that gives their table (R, C) its gradient.

    Row p is the sum of the table's rows cells[p] times weights[p], both (P, 4); so a table's row
    gets the sum of the gradients of all that read it: again a weighted sum of rows.
    """

    @staticmethod
    @override
    def forward(ctx: Any, sampled: Tensor, table: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(cells, weights)
        ctx.length = len(table)
        return sampled.view_as(sampled)

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        if not ctx.needs_input_grad[1]:
            return grad, None, None, None
        cells, weights = ctx.saved_tensors
        ordered, readers = cells.view(-1).sort(stable=True)
        firsts = torch.searchsorted(
            ordered, torch.arange(ctx.length, dtype=cells.dtype, device=cells.device)
        )
        of_table = embedding_bag(
            readers // cells.shape[1],
            grad,
            firsts,
            mode="sum",
            per_sample_weights=weights.view(-1)[readers],
        )
        return grad, of_table, None, None


def _corners(
    offset: Tensor, modulation: Tensor, sides: tuple[int, int], start: int, stride: int
) -> tuple[Tensor, Tensor]:
    """The table's cells around each tap, and their weights, both (B * h * w * 9, 4).

    The offsets and modulation are those of result rows from `start` on, `sides` the input's.
    """
    batch, _, height, width = offset.shape
    rows, columns = sides[0] + 2, sides[1] + 2  # with the border
    device = offset.device
    side = torch.arange(-1, 2, device=device)
    down = stride * torch.arange(start, start + height, device=device)
    right = stride * torch.arange(width, device=device)
    taps = torch.cartesian_prod(side, side)  # (9, 2), row by row
    centres = torch.cartesian_prod(down, right).view(height, width, 1, 2)
    moved = offset.reshape(batch, TAPS, 2, height, width).permute(0, 3, 4, 1, 2).contiguous()
    place = moved + (centres + taps)  # (B, h, w, 9, 2)
    limits = torch.tensor(sides, device=device)
    # What is outside (or not a number) reads the border's corner and passes no gradient on.
    place = torch.where((place > -1) & (place < limits), place, -1.0)
    low = place.detach().floor()
    high_share = place - low
    shares = torch.stack((1 - high_share, high_share), dim=-1)  # (..., 9, 2 axes, low or high)
    weights = shares[..., 0, :, None] * shares[..., 1, None, :]  # (..., 9, 2, 2)
    weights = weights * modulation.permute(0, 2, 3, 1)[..., None, None]
    first = (low[..., 0].long() + 1) * columns + low[..., 1].long() + 1
    first = first + rows * columns * torch.arange(batch, device=device).view(-1, 1, 1, 1)
    cells = torch.stack((first, first + 1, first + columns, first + columns + 1), dim=-1)
    return cells.view(-1, 4).int(), weights.view(-1, 4)
