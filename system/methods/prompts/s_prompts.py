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

Diff-Prompt's comparison has another form under this name (`variant` diff_prompt): 8 prompts for
each of the first 9 layers of both towers, and one task, so that nothing is routed: 62,208 numbers
on Swin-T and a BERT of width 768. In a stream, each task has its own all the same.

Legend: N prompt length, D width of a tower's first layer (v: vision, t: text).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from system.backbones.dual_encoder import Modality
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, MethodSetting, Variant
from system.methods.layer_prompts import LayerPrompts
from system.methods.parts import INIT_STD, check_at_least, layer_widths, normal, prompt_lengths

PUBLISHED_LENGTHS = 10, 16  # of the image prompt and of the context


@dataclass(frozen=True)
class SPromptsConfig:
    """The settings of S-Prompts; `text_prompt_length` null means `prompt_length` for both.

    `prompt_length` null is what the variant has: 10 and a context of 16, as published; 8 for both.
    `init_std` null is 0.02, or sqrt(2 / N).
    """

    prompt_length: int | None = None
    text_prompt_length: int | None = None
    init_std: float | None = None
    variant: Variant = "original"

    def __post_init__(self) -> None:
        check_at_least(1, self, "prompt_length", "text_prompt_length")
        check_at_least(0, self, "init_std")


class SPrompts(Method):
    """An image prompt (Nv, Dv) and a context (Nt, Dt), normal with `init_std` at the start."""

    def __init__(self, config: SPromptsConfig, setting: MethodSetting[Any]) -> None:
        super().__init__()
        vision, text = config.prompt_length, config.text_prompt_length
        if vision is None:
            vision, text = PUBLISHED_LENGTHS[0], text or PUBLISHED_LENGTHS[1]
        lengths = prompt_lengths(vision, text)
        std = INIT_STD if config.init_std is None else config.init_std
        self.placeholders = lengths["text"]
        generator = setting.generator()
        prompts = {
            m: normal(length, layer_widths(setting.shape, m)[0], std=std, generator=generator)
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


class LayerSPrompts(LayerPrompts):
    """Prompts of the first L layers of both towers."""

    def __init__(self, config: SPromptsConfig, setting: GroundingSetting) -> None:
        vision, text = config.prompt_length, config.text_prompt_length
        lengths: dict[Modality, int | None] = {"vision": vision, "text": text or vision}
        super().__init__(lengths, setting, std=config.init_std)


METHOD = MethodFactory(
    SPromptsConfig,
    retrieval=SPrompts,
    grounding=SPrompts,
    sharing="own",
    diff_prompt=LayerSPrompts,
)
