"""S-Prompts: prompts of each task learned on their own, and a router that picks a task's.

Wang et al., "S-Prompts Learning with Pre-trained Transformers: An Occam's Razor for Domain
Incremental Learning", NeurIPS 2022 (arXiv 2207.12819), the variant for CLIP (S-liPrompts): the
image prompts join the tokens of the first layer (section 3.2), the context vectors stand between a
text's begin token and its words (section 3.3), and each task's are trained by the contrastive loss
alone and then frozen. At inference the nearest k-means centre by L1 distance names the task
(section 3.4); here every image and every text is routed, as in all methods with a router. On a
grounder the image prompt enters the first block, and the context passes through the text tower.

Trainable parameters of a task: Nv Dv + Nt Dt. At the published sizes (ViT-B/16, Nv = 10, Nt = 16):
10 x 768 + 16 x 512 = 15,872.

Legend: N prompt length, D width of a tower's first layer (v: vision, t: text).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from system.backbones.dual_encoder import Modality
from system.grounders.grounder import Entries, Grounder, GroundingBatch
from system.methods.base import Method, MethodFactory, MethodSetting
from system.methods.parts import check_at_least, layer_widths, normal, prompt_lengths


@dataclass(frozen=True)
class SPromptsConfig:
    """The settings of S-Prompts; `text_prompt_length` null means `prompt_length` for both."""

    prompt_length: int = 10
    text_prompt_length: int | None = 16
    init_std: float = 0.02

    def __post_init__(self) -> None:
        check_at_least(1, self, "prompt_length", "text_prompt_length")
        check_at_least(0, self, "init_std")


class SPrompts(Method):
    """An image prompt (Nv, Dv) and a context (Nt, Dt), normal with `init_std` at the start."""

    def __init__(self, config: SPromptsConfig, setting: MethodSetting[Any]) -> None:
        super().__init__()
        lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        self.placeholders = lengths["text"]
        generator = setting.generator()
        prompts = {
            m: normal(
                length, layer_widths(setting.shape, m)[0], std=config.init_std, generator=generator
            )
            for m, length in lengths.items()
        }
        # In checkpoints the optimiser's state goes by the parameters' order.
        for m in sorted(prompts) if setting.objective == "retrieval" else prompts:
            self.register_parameter(m, prompts[m])

    @override
    def prompt(self, modality: Modality) -> Tensor:
        """The prompt (1, N, D): it enters the first layer only."""
        return self.get_parameter(modality)[None]

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(vision=[self.prompt("vision")], context=self.prompt("text"))


METHOD = MethodFactory(SPromptsConfig, retrieval=SPrompts, grounding=SPrompts, sharing="own")
