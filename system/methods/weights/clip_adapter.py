"""CLIP-Adapter on a grounder: small bottlenecks behind the two towers, mixed with what they get.

Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV 2023 (arXiv
2110.04544), equations 2 and 3: x' = r A(x) + (1 - r) x. Trainable parameters: 2 P floor(P /
reduction) for each level's width P and the text's.

Diff-Prompt's comparison has another form (`variant` diff_prompt): an adapter for each level behind
the pyramid, of the vision side alone, over a level's places instead of its channels: each channel
is one vector. Its size depends on the image's, 327,848 numbers at 224 pixels, and what
it learns on the place. The original form treats all places alike.

Legend: B batch, P width of a level or of the text (or places of a level), H hidden width, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, Variant
from system.methods.parts import check_positive, uniform


def adapter_branch(features: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """A(x) (..., P) of features (..., P): ReLU(up ReLU(down x)), down (H, P), up (P, H)."""
    return torch.relu(torch.relu(features @ down.T) @ up.T)


@dataclass(frozen=True)
class ClipAdapterConfig:
    """The settings of CLIP-Adapter; the defaults are the published ones."""

    reduction: int = 4
    ratio: float = 0.2  # r: how much of the result is the adapter's
    variant: Variant = "original"

    def __post_init__(self) -> None:
        check_positive(self, "reduction")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio} must be above 0 and at most 1")


class _Adapters(Method):
    """Bottlenecks of given widths."""

    def __init__(
        self, widths: Sequence[int], config: ClipAdapterConfig, setting: GroundingSetting
    ) -> None:
        super().__init__()
        self.ratio = config.ratio
        generator = setting.generator()
        hidden = [max(1, width // config.reduction) for width in widths]
        pairs = list(zip(widths, hidden, strict=True))
        self.down = nn.ParameterList(
            uniform(small, wide, inputs=wide, generator=generator) for wide, small in pairs
        )
        self.up = nn.ParameterList(
            uniform(wide, small, inputs=small, generator=generator) for wide, small in pairs
        )

    def mixed(self, index: int, features: Tensor) -> Tensor:
        branch = adapter_branch(features, self.down[index], self.up[index])
        return self.ratio * branch + (1 - self.ratio) * features


class ClipAdapter(_Adapters):
    """An adapter for each level of the vision tower and one for the text's tokens."""

    def __init__(self, config: ClipAdapterConfig, setting: GroundingSetting) -> None:
        shape = setting.shape
        super().__init__((*shape.pyramid_widths, shape.text_widths[-1]), config, setting)

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(
            adapt_level=lambda index, level: self.mixed(index, level.movedim(1, -1)).movedim(-1, 1),
            adapt_text=lambda hidden: self.mixed(len(self.down) - 1, hidden),
        )


class SpatialClipAdapter(_Adapters):
    """An adapter over the places of each level behind the pyramid."""

    def __init__(self, config: ClipAdapterConfig, setting: GroundingSetting) -> None:
        if not setting.shape.level_sides:
            raise ConfigError(
                "method.variant=diff_prompt: this clip_adapter learns weights for each place of an "
                "image, so that all have to be of one size; set grounder.images.rule=squeeze"
            )
        super().__init__([side**2 for side in setting.shape.level_sides], config, setting)

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(
            adapt_pyramid=lambda index, level: self.mixed(index, level.flatten(2)).reshape(
                level.shape
            )
        )


METHOD = MethodFactory(ClipAdapterConfig, grounding=ClipAdapter, diff_prompt=SpatialClipAdapter)
