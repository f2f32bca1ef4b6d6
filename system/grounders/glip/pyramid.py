"""Feature pyramid (Lin et al. 2017, "Feature pyramid networks", arXiv 1612.03144).

Legend: B batch, C channels of the pyramid, H W a level's sides, P width of a vision level.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate


class FeaturePyramid(nn.Module):
    """Levels of one width, each with what coarser ones know, and coarser ones still.

    `widths` are those of the vision tower's levels, fine to coarse. The first of `extra_levels` is
    computed from the pyramid's own last level, not from the tower's; each halves the one before.

    Names in GLIP's checkpoints (`backbone.fpn`, counted from the tower's second level): `lateral.I`
    is `fpn_inner{I + 2}`, `output.I` is `fpn_layer{I + 2}`, `extra.I` is `top_blocks.p{I + 6}`.
    """

    def __init__(self, widths: Sequence[int], channels: int, extra_levels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in widths)
        self.extra = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra_levels)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C, H, W), fine to coarse, from the vision tower's (B, P, H, W)."""
        merged = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for index in reversed(range(len(merged) - 1)):
            size = merged[index].shape[-2:]
            merged[index] = merged[index] + interpolate(merged[index + 1], size=size)
        found = [output(level) for output, level in zip(self.output, merged, strict=True)]
        for number, extra in enumerate(self.extra):
            # A convolution; a search for SQL takes it for Django's `extra`.
            found.append(extra(found[-1] if number == 0 else found[-1].relu()))  # nosec B610
        return found
