"""S-Prompts: prompts of each task learned on their own, and a router that picks a task's.

Wang et al., "S-Prompts Learning with Pre-trained Transformers: An Occam's Razor for Domain
Incremental Learning", NeurIPS 2022 (arXiv 2207.12819), the variant for CLIP (S-liPrompts): the
image prompts join the tokens of the first layer (section 3.2), the context vectors stand between a
text's begin token and its words (section 3.3), and each task's are trained by the contrastive loss
alone and then frozen. At inference the nearest k-means centre by L1 distance names the task
(section 3.4); here every image and every text is routed, as in all methods with a router.

Trainable parameters of a task: Nv Dv + Nt Dt. At the published sizes (ViT-B/16, Nv = 10, Nt = 16):
10 x 768 + 16 x 512 = 15,872.

Legend: N prompt length, D width of a tower (v: vision, t: text).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.methods.method import (
    MethodFactory,
    MethodSetting,
    PromptMethod,
    prompt_lengths,
)
from system.methods.stream_method import task_generator


@dataclass(frozen=True)
class SPromptsConfig:
    """The settings of S-Prompts; `text_prompt_length` null means `prompt_length` for both."""

    prompt_length: int = 10
    text_prompt_length: int | None = 16
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("prompt_length", "text_prompt_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.init_std < 0:
            raise ValueError(f"init_std={self.init_std} must not be negative")


class SPrompts(PromptMethod):
    """Independent prompts of every task so far; only the current task's train."""

    def __init__(self, config: SPromptsConfig, setting: MethodSetting) -> None:
        super().__init__()
        self.lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        self.placeholders = self.lengths["text"]
        self.widths: dict[Modality, int] = {m: setting.shape.width(m) for m in MODALITIES}
        self.init_std = config.init_std
        self.seed = setting.seed
        self.tasks = nn.ModuleList()

    @property
    def known_tasks(self) -> int:
        """How many tasks have prompts."""
        return len(self.tasks)

    def add_task(self, backbone: DualEncoder) -> None:
        """New prompts, normal with `init_std`; nothing of an earlier task goes into them."""
        generator = task_generator(self.seed, len(self.tasks))
        prompts = nn.ParameterDict(
            {
                m: torch.randn(self.lengths[m], self.widths[m], generator=generator) * self.init_std
                for m in MODALITIES
            }
        )
        self.tasks.append(prompts.to(next(backbone.parameters()).device))

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The prompts (N, D) of a task, by modality."""
        return dict(self.tasks[task].named_parameters())

    def prompt(self, modality: Modality, task: int) -> Tensor:
        """The prompt (1, N, D): it enters the first layer only."""
        prompts = self.tasks[task]
        assert isinstance(prompts, nn.ParameterDict)
        own: Tensor = prompts[modality]
        return own[None]


METHOD = MethodFactory(SPromptsConfig, SPrompts)
