"""Diff-Prompt in a stream: instance prompts from the generator beside a task's low-rank prompts.

At each layer the low-rank prompt of LPI (arXiv 2501.14369), which is the task's, and the prompt of
Diff-Prompt (arXiv 2504.21423), half of it the sample's, stand side by side; `prompt_norm` is that
of Diff-Prompt's alone. A task learns both, by the grounder's loss and LPI's two terms; the
generator is trained once and frozen.

Legend: B batch, N prompt length, D width of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory
from system.methods.low_rank import LowRankConfig
from system.methods.prompts.diff_prompt import RENAMED, DiffPrompt, DiffPromptConfig
from system.methods.prompts.lpi import GroundingLowRank


@dataclass(frozen=True)
class LpiDiffPromptConfig(DiffPromptConfig):
    """Diff-Prompt's settings, and those of LPI under `low_rank`."""

    low_rank: LowRankConfig = field(default_factory=LowRankConfig)


class LpiDiffPrompt(Method):
    """The factors, the adapters and the global prompts of one task."""

    needs_latents = True

    def __init__(self, config: LpiDiffPromptConfig, setting: GroundingSetting) -> None:
        super().__init__()
        self.instance = DiffPrompt(config, setting)
        self.task = GroundingLowRank(config.low_rank, setting)
        self.latent_needs = self.instance.latent_needs
        self.similarity_source = self.task.similarity_source
        self.similarity_centred = self.task.similarity_centred

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        super().begin_task(task, model)
        self.task.begin_task(task, model)

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        """Both prompts of each layer, the task's first, for every sample its own."""
        task = self.task.entries(grounder, batch, latents)
        instance = self.instance.entries(grounder, batch, latents)
        return Entries(
            vision=beside(task.vision, instance.vision),
            text=beside(task.text, instance.text),
            windows=instance.windows,
            added=task.added,
        )

    @override
    def attracts(self, similarity: Tensor) -> Tensor | None:
        return self.task.attracts(similarity)

    @override
    def regularisers(
        self, earlier: Sequence[Self] = (), similarity: Tensor | None = None
    ) -> dict[str, Tensor]:
        """LPI's, of the low-rank prompts."""
        return self.task.regularisers([method.task for method in earlier], similarity)


def beside(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """Prompts (1|B, N, D) a layer side by side; where one has no more layers, the other alone."""
    joined = []
    for pair in zip_longest(first, second):
        prompts = [prompt for prompt in pair if prompt is not None]
        size = max(len(prompt) for prompt in prompts)
        joined.append(torch.cat([prompt.expand(size, -1, -1) for prompt in prompts], dim=1))
    return joined


METHOD = MethodFactory(LpiDiffPromptConfig, grounding=LpiDiffPrompt, sharing="own", renamed=RENAMED)
