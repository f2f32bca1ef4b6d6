"""S-Prompts on a grounder: an image prompt in the first block, a context in the text tower.

Wang et al., NeurIPS 2022 (arXiv 2207.12819): in a stream each
task has its own, otherwise all of a benchmark's tasks learn one set at once. Trainable parameters
of a set: Nv Dv + Nt Dt.

Legend: N prompt length, D width of the first layer of a tower (v: vision, t: text).
"""

from typing import ClassVar

from torch import Tensor

from system.grounders.grounder import Entries, Grounder, Tokens
from system.methods.grounding_method import (
    GroundingMethod,
    GroundingMethodFactory,
    GroundingSetting,
    InStream,
)
from system.methods.method import prompt_lengths
from system.methods.prompts.s_prompts import SPromptsConfig
from system.methods.shared_prompts import normal


class GroundingSPrompts(GroundingMethod):
    """An image prompt (Nv, Dv) and a context (Nt, Dt)."""

    in_stream: ClassVar[InStream] = "own"

    def __init__(self, config: SPromptsConfig, setting: GroundingSetting) -> None:
        super().__init__()
        lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        generator = setting.generator()
        for modality, length in lengths.items():
            width = setting.shape.widths(modality)[0]
            prompt = normal(length, width, std=config.init_std, generator=generator)
            self.register_parameter(modality, prompt)

    def entries(self, grounder: Grounder, tokens: Tokens, latents: Tensor | None) -> Entries:
        """The same prompts for every sample."""
        return Entries(
            vision=[self.get_parameter("vision")[None]], context=self.get_parameter("text")[None]
        )


GROUNDING_METHOD = GroundingMethodFactory(SPromptsConfig, GroundingSPrompts)
