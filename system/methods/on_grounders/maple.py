"""MaPLe on a grounder: deep text prompts, and vision prompts that are linear functions of them.

Khattak et al., CVPR 2023 (arXiv 2210.03117, equation 6); the blocks
of a Swin grow wider, so each has a function of its own. Trainable parameters: L N Dt, and the sum
over the prompted blocks of (Dt + 1) Dv.

Legend: L layers with prompts, N prompt length, Dv and Dt widths of a layer of the towers.
"""

import torch
from torch import Tensor, nn

from system.errors import ConfigError
from system.grounders.grounder import Entries, Grounder, Tokens
from system.methods.grounding_depth import depth_in
from system.methods.grounding_method import (
    GroundingMethod,
    GroundingMethodFactory,
    GroundingSetting,
)
from system.methods.prompts.maple import MapleConfig, coupled
from system.methods.shared_prompts import normal, uniform


class GroundingMaple(GroundingMethod):
    """Text prompts (N, Dt), and a weight (Dv, Dt) and bias (Dv) a block."""

    def __init__(self, config: MapleConfig, setting: GroundingSetting) -> None:
        super().__init__()
        if config.coupling != "per_layer":
            raise ConfigError(
                f"method.coupling={config.coupling}: a grounder's blocks have several widths, "
                "which one function cannot serve; use per_layer"
            )
        shape = setting.shape
        depth = depth_in(config.prompt_depth, shape, "vision", "text")
        generator = torch.Generator().manual_seed(setting.seed)
        widths = list(zip(shape.vision_widths, shape.text_widths, strict=False))[:depth]
        self.text = nn.ParameterList(
            normal(config.prompt_length, dt, std=config.init_std, generator=generator)
            for _, dt in widths
        )
        self.weight = nn.ParameterList(
            uniform(dv, dt, inputs=dt, generator=generator) for dv, dt in widths
        )
        self.bias = nn.ParameterList(
            uniform(dv, inputs=dt, generator=generator) for dv, dt in widths
        )

    def entries(self, grounder: Grounder, tokens: Tokens, latents: Tensor | None) -> Entries:
        """The same prompts for every sample."""
        parts = zip(self.text, self.weight, self.bias, strict=True)
        return Entries(
            vision=[coupled(text[None], weight[None], bias[None]) for text, weight, bias in parts],
            text=[text[None] for text in self.text],
        )


GROUNDING_METHOD = GroundingMethodFactory(MapleConfig, GroundingMaple)
