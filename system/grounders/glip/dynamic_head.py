"""Dynamic head (Dai et al. 2021, arXiv 2106.08322), as in the released code of GLIP.

Every level is mixed with the next finer and the next coarser one by deformable convolutions whose
offsets the level itself predicts; the weights of a block serve all levels.

Parameters of a block, and their names in GLIP's checkpoints (`rpn.head.dyhead_tower.I`):

- `blocks.I.offset`: `offset`
- `blocks.I.coarser.conv|norm`: `DyConv.0.conv|bn`
- `blocks.I.same.conv|norm`: `DyConv.1.conv|bn`
- `blocks.I.finer.conv|norm`: `DyConv.2.conv|bn`
- `blocks.I.gate`: `AttnConv.1`
- `blocks.I.activation.squeeze|excite`: `relu.fc.0|2`

Legend: B batch, C channels, H W a level's sides, h w those of the next coarser one.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import hardsigmoid, interpolate

from system.config.schema import Upsampling as Upsampling
from system.grounders.glip.deformable import (
    TAPS,
    leading_numbers,
    modulated_deform_conv,
    output_size,
)


class DynamicHead(nn.Module):
    """A tower of dynamic blocks over the levels of a pyramid.

    `upsampling` is that of the coarser branch: bilinear in GLIP and LPI, nearest in Diff-Prompt's
    released code.
    """

    def __init__(
        self, channels: int, blocks: int, groups: int, upsampling: Upsampling = "bilinear"
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DynamicBlock(channels, groups, upsampling) for _ in range(blocks)
        )

    def upsample(self, upsampling: Upsampling) -> None:
        """Set the upsampling of all blocks."""
        for block in self.blocks:
            assert isinstance(block, DynamicBlock)
            block.upsampling = upsampling

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C, H, W) of the sizes given: fine to coarse, one or more.

        Raises ValueError unless each is half of the one before, rounded up.
        """
        found = list(levels)
        for finer, level in pairwise(found):
            if tuple(level.shape[-2:]) != output_size(finer, stride=2):
                raise ValueError(
                    f"levels of {[tuple(each.shape[-2:]) for each in found]} cells: each must be "
                    "half of the one before, rounded up"
                )
        for block in self.blocks:
            found = block(found)
        return found


class DynamicBlock(nn.Module):
    """One block of the head; all levels read those of the block before."""

    def __init__(self, channels: int, groups: int, upsampling: Upsampling) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.offset = nn.Conv2d(channels, 3 * TAPS, 3, padding=1)
        self.same = DeformableBranch(channels, groups)
        self.finer = DeformableBranch(channels, groups, stride=2)
        self.coarser = DeformableBranch(channels, groups)
        self.gate = nn.Conv2d(channels, 1, 1)
        self.activation = DynamicReLU(channels)
        # Training from scratch starts with taps in their places, each of weight 1/2.
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C, H, W) of the same sizes."""
        return [self._level(levels, index) for index in range(len(levels))]

    def _level(self, levels: Sequence[Tensor], index: int) -> Tensor:
        level = levels[index]
        offset, modulation = self.shifts(level)
        branches = [self.same(level, offset, modulation)]
        if index > 0:
            branches.append(self.finer(levels[index - 1], offset, modulation))
        if index < len(levels) - 1:
            coarse = self.coarser(levels[index + 1], offset, modulation)
            branches.append(self.upsample(coarse, level.shape[-2:]))
        gated = [self.strength(branch) * branch for branch in branches]
        found: Tensor = self.activation(torch.stack(gated).mean(dim=0))
        return found

    def shifts(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, 18, H, W) and modulation (B, 9, H, W) of a level's taps."""
        offset, modulation = self.offset(level).split((2 * TAPS, TAPS), dim=1)
        return offset, modulation.sigmoid()

    def upsample(self, coarse: Tensor, size: Sequence[int]) -> Tensor:
        """A coarser level's branch (B, C, h, w) as (B, C, *size)."""
        corners = True if self.upsampling == "bilinear" else None
        return interpolate(coarse, list(size), mode=self.upsampling, align_corners=corners)

    def strength(self, branch: Tensor) -> Tensor:
        """Weight (B, 1, 1, 1) of a branch, from 0.5 to 1 (the paper's scale-aware attention)."""
        gate: Tensor = self.gate(branch.mean(dim=(-2, -1), keepdim=True))
        return hardsigmoid(gate.relu())


class DeformableBranch(nn.Module):
    """A modulated deformable convolution and a group norm."""

    def __init__(self, channels: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1)  # only its parameters
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, level: Tensor, offset: Tensor, modulation: Tensor) -> Tensor:
        """From a level (B, C, ...) and the offsets and modulation of another one (see
        `leading_numbers` where they are of a finer level).
        """
        size = output_size(level, self.stride)
        found: Tensor = self.norm(
            modulated_deform_conv(
                level,
                leading_numbers(offset, size),
                leading_numbers(modulation, size),
                self.conv.weight,
                self.conv.bias,
                self.stride,
            )
        )
        return found


class DynamicReLU(nn.Module):
    """The greater of two lines whose slopes and offsets depend on the sample (the paper's
    task-aware attention; dynamic ReLU, arXiv 2003.10027).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 4)
        self.excite = nn.Linear(channels // 4, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, C, H, W)."""
        lines = hardsigmoid(self.excite(self.squeeze(x.mean(dim=(-2, -1))).relu())) - 0.5
        slope, offset, other_slope, other_offset = lines[..., None, None].chunk(4, dim=1)
        return torch.maximum(x * (2 * slope + 1) + offset, x * 2 * other_slope + other_offset)
