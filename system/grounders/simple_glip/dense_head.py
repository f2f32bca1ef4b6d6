"""Feature pyramid and dense head: at each place a box, its centre-ness, a score for each word.

Legend: B batch, C channels of the pyramid, H W a level's sides, A places over all levels, T tokens,
D width of the text tower.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from system.grounders.simple_glip.glip_config import HeadSizes

PRIOR = 0.01  # probability of an object in an untrained head (arXiv 1708.02002)


class FeaturePyramid(nn.Module):
    """Levels of one width, each with what coarser ones know (Lin et al. 2017, arXiv 1612.03144)."""

    def __init__(self, widths: Sequence[int], sizes: HeadSizes) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, sizes.channels, 1) for width in widths)
        self.output = nn.ModuleList(
            nn.Conv2d(sizes.channels, sizes.channels, 3, padding=1) for _ in widths
        )
        self.extra = nn.ModuleList(
            nn.Conv2d(sizes.channels, sizes.channels, 3, stride=2, padding=1)
            for _ in range(sizes.extra_levels)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C, H, W), fine to coarse, from the vision tower's (B, P, H, W)."""
        merged = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for index in reversed(range(len(merged) - 1)):
            size = merged[index].shape[-2:]
            merged[index] = merged[index] + interpolate(merged[index + 1], size=size)
        found = [output(level) for output, level in zip(self.output, merged, strict=True)]
        for number, extra in enumerate(self.extra):
            found.append(extra(found[-1] if number == 0 else found[-1].relu()))
        return found


class DenseHead(nn.Module):
    """One tower of convolutions over every level, and what is read from it."""

    def __init__(self, sizes: HeadSizes, levels: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for _ in range(sizes.convolutions):
            blocks += [
                nn.Conv2d(sizes.channels, sizes.channels, 3, padding=1, bias=False),
                nn.GroupNorm(sizes.norm_groups, sizes.channels),
                nn.ReLU(),
            ]
        self.tower = nn.Sequential(*blocks)
        self.box = nn.Conv2d(sizes.channels, 4, 3, padding=1)
        self.centreness = nn.Conv2d(sizes.channels, 1, 3, padding=1)
        self.region = nn.Conv2d(sizes.channels, sizes.channels, 1)
        self.box_scale = nn.Parameter(torch.ones(levels))
        for output in (self.box, self.centreness):
            nn.init.normal_(output.weight, std=0.01)
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Regions (B, A, C), box logs (B, A, 4) and centre-ness logits (B, A)."""
        regions, boxes, centres = [], [], []
        for level, scale in zip(levels, self.box_scale, strict=True):
            features = self.tower(level)
            regions.append(_places(self.region(features)))
            boxes.append(_places(self.box(features)) * scale)
            centres.append(_places(self.centreness(features))[..., 0])
        return torch.cat(regions, 1), torch.cat(boxes, 1), torch.cat(centres, 1)


class WordScores(nn.Module):
    """Region-token dot product (GLIP, arXiv 2112.03857, equation 3), scaled and with a bias."""

    def __init__(self, text_width: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_width, channels)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias = nn.Linear(text_width, 1)
        nn.init.zeros_(self.bias.weight)
        nn.init.constant_(self.bias.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, regions: Tensor, words: Tensor) -> Tensor:
        """Logits (B, A, T) of regions (B, A, C) and words (B, T, D)."""
        words = normalize(words, dim=-1)
        known = self.project(words / 2)  # as GLIP: unit words, halved
        logits = regions @ known.transpose(1, 2) / self.log_scale.exp()
        scores: Tensor = logits + self.bias(words).transpose(1, 2)
        return scores


def _places(level: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H * W, C)."""
    return level.flatten(2).transpose(1, 2)
