"""CoOp on a grounder: learned context vectors that pass through the text tower.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (arXiv 2109.01134), with
one context for all expressions. Trainable parameters: N D.

Legend: N context length, D width of the text tower.
"""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from system.grounders.grounder import Entries, Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory
from system.methods.parts import check_positive, normal


@dataclass(frozen=True)
class CoopConfig:
    """The settings of CoOp; the defaults are the published ones."""

    context_length: int = 16
    init_std: float = 0.02

    def __post_init__(self) -> None:
        check_positive(self, "context_length", "init_std")


class Coop(Method):
    """The context (N, D)."""

    def __init__(self, config: CoopConfig, setting: GroundingSetting) -> None:
        super().__init__()
        generator = setting.generator()
        width = setting.shape.text_widths[0]
        self.context = normal(
            config.context_length, width, std=config.init_std, generator=generator
        )

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(context=self.context[None])


METHOD = MethodFactory(CoopConfig, grounding=Coop)
