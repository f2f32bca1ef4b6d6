"""Visual prompt tuning on a grounder: a learned prompt in each block of the vision tower.

Jia et al., "Visual Prompt Tuning", ECCV 2022 (arXiv 2203.12119), VPT-Deep; in a Swin prompts stand
in every window and are left out of the merging of patches (section 3.2, "Swin").
Trainable parameters: N times the sum of the widths of the prompted blocks.

Legend: L prompted blocks, N prompt length, D width of a block.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from system.grounders.grounder import Entries, Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory
from system.methods.parts import check_positive, depth_in_each, normal


@dataclass(frozen=True)
class VptConfig:
    """The settings of VPT; `prompt_depth` null means every block, 1 is VPT-Shallow."""

    prompt_length: int = 8
    prompt_depth: int | None = None
    init_std: float = 0.02

    def __post_init__(self) -> None:
        check_positive(self, "prompt_length", "init_std")


class Vpt(Method):
    """Prompts (N, D) of the first L blocks."""

    def __init__(self, config: VptConfig, setting: GroundingSetting) -> None:
        super().__init__()
        depth = depth_in_each(config.prompt_depth, setting.shape, "vision")
        generator = setting.generator()
        self.vision = nn.ParameterList(
            normal(config.prompt_length, width, std=config.init_std, generator=generator)
            for width in setting.shape.vision_widths[:depth]
        )

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(vision=[prompt[None] for prompt in self.vision])


METHOD = MethodFactory(VptConfig, grounding=Vpt)
