"""CoOp on a grounder: learned context vectors that pass through the text tower.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (arXiv 2109.01134), with
one context for all expressions; it stands behind an expression, not before a class name. Trainable
parameters: N D.

Diff-Prompt's comparison has another form under this name (`variant` diff_prompt): 8 prompts for
each of the first 9 layers, which do not pass on to the next one; 55,296 numbers in a BERT of width
768. That is deep text prompting, with nine times the numbers of a context of its length.

Legend: N context length, D width of the text tower.
"""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, Variant
from system.methods.layer_prompts import LayerPrompts
from system.methods.parts import INIT_STD, check_positive, normal

PUBLISHED_LENGTH = 16


@dataclass(frozen=True)
class CoopConfig:
    """The settings of CoOp.

    Null is what the variant has: 16 and 0.02, as published; 8 a layer and sqrt(2 / N).
    """

    context_length: int | None = None
    init_std: float | None = None
    variant: Variant = "original"

    def __post_init__(self) -> None:
        check_positive(self, "context_length", "init_std")


class Coop(Method):
    """The context (N, D)."""

    def __init__(self, config: CoopConfig, setting: GroundingSetting) -> None:
        super().__init__()
        generator = setting.generator()
        width = setting.shape.text_widths[0]
        self.context = normal(
            config.context_length or PUBLISHED_LENGTH,
            width,
            std=config.init_std or INIT_STD,
            generator=generator,
        )

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(context=self.context[None])


class LayerCoop(LayerPrompts):
    """Prompts (N, D) of the first L layers of the text tower."""

    def __init__(self, config: CoopConfig, setting: GroundingSetting) -> None:
        super().__init__({"text": config.context_length}, setting, std=config.init_std)


METHOD = MethodFactory(CoopConfig, grounding=Coop, diff_prompt=LayerCoop)
