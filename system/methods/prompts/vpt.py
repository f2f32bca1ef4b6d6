"""Visual prompt tuning on a grounder: a learned prompt in each block of the vision tower.

Jia et al., "Visual Prompt Tuning", ECCV 2022 (arXiv 2203.12119), VPT-Deep; in a Swin prompts stand
in every window and are left out of the merging of patches (section 3.2, "Swin").
Trainable parameters: N times the sum of the widths of the prompted blocks.

Diff-Prompt's comparison has another form (`variant` diff_prompt): prompts of 8 x D, D of the first
block, for 9 blocks, read at a wider block's width, behind the norm; 6,912 numbers on Swin-T. The
difference matters where a Swin grows wider: there the form has fewer rows, and fewer numbers.

Legend: L prompted blocks, N prompt length, D width of a block.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, Variant
from system.methods.layer_prompts import LayerPrompts
from system.methods.parts import INIT_STD, check_positive, depth_in_each, normal


@dataclass(frozen=True)
class VptConfig:
    """The settings of VPT; `prompt_depth` 1 is VPT-Shallow.

    Null is what the variant has: every block and 0.02; nine blocks and sqrt(2 / N).
    """

    prompt_length: int = 8
    prompt_depth: int | None = None
    init_std: float | None = None
    variant: Variant = "original"

    def __post_init__(self) -> None:
        check_positive(self, "prompt_length", "init_std")


class Vpt(Method):
    """Prompts (N, D) of the first L blocks."""

    def __init__(self, config: VptConfig, setting: GroundingSetting) -> None:
        super().__init__()
        depth = depth_in_each(config.prompt_depth, setting.shape, "vision")
        generator = setting.generator()
        std = INIT_STD if config.init_std is None else config.init_std
        self.vision = nn.ParameterList(
            normal(config.prompt_length, width, std=std, generator=generator)
            for width in setting.shape.vision_widths[:depth]
        )

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(vision=[prompt[None] for prompt in self.vision])


class LayerVpt(LayerPrompts):
    """Prompts (N, D) of the first L blocks, all of the first one's width."""

    def __init__(self, config: VptConfig, setting: GroundingSetting) -> None:
        super().__init__(
            {"vision": config.prompt_length},
            setting,
            depth=config.prompt_depth,
            std=config.init_std,
        )


METHOD = MethodFactory(VptConfig, grounding=Vpt, diff_prompt=LayerVpt)
