"""LPI on a grounder: low-rank prompts in the blocks of its Swin and the layers of its BERT.

Yan et al., ACM MM 2024 (arXiv 2501.14369), as in system/methods/prompts/lpi.py: a layer factor that
both towers share, a position and a feature factor for each, and the interaction between the towers'
prompts of one layer as an option.

The paper has one width a tower; a Swin's grows from stage to stage. Our adaptation: the tower's
feature factor (D, R) is as long as its widest layer, and a narrower one of width d takes the first
d features, in the prompt as in the interaction's maps and norms. With equal widths this is the
published product.

A task learns R (L + Nv + Nt + Dv + Dt) numbers, Dv and Dt the largest widths, and with an
interaction of rank r in l layers 2 r (l + Dv + Dt + 1) + 2 (Dv + Dt) more.

Legend: L prompted layers, N prompt length, D width of a layer, R rank.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.grounders.grounder import Entries, Grounder, GrounderShape, Tokens
from system.methods.grounding_method import (
    GroundingMethod,
    GroundingMethodFactory,
    GroundingSetting,
    InStream,
)
from system.methods.method import prompt_lengths
from system.methods.prompts.lpi import LowRankConfig, TaskFactors, low_rank_prompt, prompt_terms


class GroundingLowRank(GroundingMethod):
    """The factors of one task; without a stream, of all tasks at once."""

    in_stream: ClassVar[InStream] = "own"

    def __init__(self, config: LowRankConfig, setting: GroundingSetting) -> None:
        super().__init__()
        self.config = config
        self.similarity_source = config.task_contrast.source
        self.layer_widths = _entered(config, setting.shape)
        self.interacting = _interacting(
            config.interaction.depth, min(map(len, self.layer_widths.values()))
        )
        first_draw = GroundingSetting(setting.shape, setting.seed)
        start = setting if config.task_start == "own" else first_draw
        self.factors = TaskFactors(
            config,
            max(map(len, self.layer_widths.values())),
            self.interacting,
            prompt_lengths(config.prompt_length, config.text_prompt_length),
            {m: max(setting.shape.widths(m)) for m in MODALITIES},
            start.generator(),
        )

    def entries(self, grounder: Grounder, tokens: Tokens, latents: Tensor | None) -> Entries:
        """The same prompts for every sample."""
        prompts = self.prompts()
        return Entries(
            vision=[prompt[None] for prompt in prompts["vision"]],
            text=[prompt[None] for prompt in prompts["text"]],
        )

    def prompts(self) -> dict[Modality, list[Tensor]]:
        """Each tower's prompts (N, D), one a layer, after the interaction."""
        own = {m: [prompt for run in self.runs(m) for prompt in run] for m in MODALITIES}
        interaction = self.factors.interaction
        if interaction is None:
            return own
        found: dict[Modality, list[Tensor]] = {m: [] for m in MODALITIES}
        pairs = zip(*(self.layer_widths[m][: self.interacting] for m in MODALITIES), strict=True)
        for _, run in groupby(enumerate(pairs), key=lambda layer: layer[1]):
            layers = [index for index, _ in run]  # of one width in either tower
            towers = {m: torch.stack([own[m][index] for index in layers]) for m in MODALITIES}
            for modality, taken_in in interaction(towers, layers[0]).items():
                found[modality] += list(taken_in)
        return {m: found[m] + own[m][self.interacting :] for m in MODALITIES}

    def runs(self, modality: Modality) -> list[Tensor]:
        """A tower's prompts (l, N, D) before interaction, one for each run of layers of a width."""
        factors, found, start = self.factors, [], 0
        for width, run in groupby(self.layer_widths[modality]):
            layers = len(list(run))
            found.append(
                low_rank_prompt(
                    factors.layer[start : start + layers],
                    factors.position[modality],
                    factors.feature[modality][:width],
                )
            )
            start += layers
        return found

    def regularisers(
        self, earlier: Sequence[GroundingMethod] = (), similarity: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Layer alignment, and task contrast with the tasks before."""
        tasks = [
            {m: method.runs(m) for m in MODALITIES}
            for method in (*earlier, self)
            if isinstance(method, GroundingLowRank)
        ]
        return prompt_terms(self.config, tasks, similarity)


def _entered(config: LowRankConfig, shape: GrounderShape) -> dict[Modality, tuple[int, ...]]:
    """The widths of the layers that are entered. Raises ConfigError for a depth of no tower."""
    deepest = max(len(shape.widths(m)) for m in MODALITIES)
    depth = deepest if config.prompt_depth is None else config.prompt_depth
    if not 1 <= depth <= deepest:
        raise ConfigError(
            f"method.prompt_depth={depth} does not fit a grounder of {len(shape.vision_widths)} "
            f"vision and {len(shape.text_widths)} text layers; use 1..{deepest}"
        )
    return {m: shape.widths(m)[:depth] for m in MODALITIES}


def _interacting(depth: int | None, most: int) -> int:
    """In how many layers the towers' prompts interact. Raises ConfigError for too many."""
    if depth is not None and depth > most:
        raise ConfigError(
            f"method.interaction.depth={depth} does not fit prompts that enter {most} layers of "
            f"both towers; use 0 (off) to {most}, or null for all of them"
        )
    return most if depth is None else depth


GROUNDING_METHOD = GroundingMethodFactory(LowRankConfig, GroundingLowRank)
