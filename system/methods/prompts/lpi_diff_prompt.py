"""Diff-Prompt in a stream: instance prompts from the generator beside a task's low-rank prompts.

At each layer the low-rank prompt of LPI (arXiv 2501.14369), which is the task's, and the prompt of
Diff-Prompt (arXiv 2504.21423), half of it the sample's, stand side by side. A task learns both,
by the grounder's loss and LPI's two terms; the generator is trained once and frozen.

Legend: B batch, N prompt length, D width of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import ClassVar

import torch
from torch import Tensor

from system.grounders.grounder import Entries, Grounder, Tokens
from system.methods.grounding_method import (
    GroundingMethod,
    GroundingMethodFactory,
    GroundingSetting,
    InStream,
)
from system.methods.on_grounders.lpi import GroundingLowRank
from system.methods.prompts.diff_prompt import DiffPrompt, DiffPromptConfig
from system.methods.prompts.lpi import LowRankConfig


@dataclass(frozen=True)
class LpiDiffPromptConfig(DiffPromptConfig):
    """Diff-Prompt's settings, and those of LPI under `low_rank`."""

    low_rank: LowRankConfig = field(default_factory=LowRankConfig)


class LpiDiffPrompt(GroundingMethod):
    """The factors, the adapters and the global prompts of one task."""

    needs_latents: ClassVar[bool] = True
    in_stream: ClassVar[InStream] = "own"

    def __init__(self, config: LpiDiffPromptConfig, setting: GroundingSetting) -> None:
        super().__init__()
        self.instance = DiffPrompt(config, setting)
        self.task = GroundingLowRank(config.low_rank, setting)
        self.latent_needs = self.instance.latent_needs
        self.similarity_source = self.task.similarity_source

    def entries(self, grounder: Grounder, tokens: Tokens, latents: Tensor | None) -> Entries:
        """Both prompts of each layer, the task's first, for every sample its own."""
        task = self.task.entries(grounder, tokens, latents)
        instance = self.instance.entries(grounder, tokens, latents)
        return Entries(
            vision=beside(task.vision, instance.vision), text=beside(task.text, instance.text)
        )

    def regularisers(
        self, earlier: Sequence[GroundingMethod] = (), similarity: Tensor | None = None
    ) -> dict[str, Tensor]:
        """LPI's, of the low-rank prompts."""
        tasks = [method.task for method in earlier if isinstance(method, LpiDiffPrompt)]
        return self.task.regularisers(tasks, similarity)


def beside(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """Prompts (1|B, N, D) a layer side by side; where one has no more layers, the other alone."""
    joined = []
    for pair in zip_longest(first, second):
        prompts = [prompt for prompt in pair if prompt is not None]
        size = max(len(prompt) for prompt in prompts)
        joined.append(torch.cat([prompt.expand(size, -1, -1) for prompt in prompts], dim=1))
    return joined


GROUNDING_METHOD = GroundingMethodFactory(LpiDiffPromptConfig, LpiDiffPrompt)
