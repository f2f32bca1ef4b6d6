"""Low-rank prompts and their loss terms: a layer factor that both modalities share.

Yan et al., "Low-rank Prompt Interaction for Continual Vision-Language Retrieval", ACM MM 2024
(arXiv 2501.14369). See `system.methods.prompts.lpi` for what the released code does.

Legend: L layers, N prompt length, D width of a tower, R rank, K tasks so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import MODALITIES, Modality
from system.methods.base import SimilaritySource
from system.methods.interaction import InteractionConfig, LowRankInteraction
from system.methods.losses import Sigmoid, layer_alignment, task_contrast
from system.methods.parts import Weight, check_at_least, check_positive, check_weight, weight_at


def low_rank_prompt(layer: Tensor, position: Tensor, feature: Tensor) -> Tensor:
    """Prompts (L, N, D) from factors (L, R), (N, R) and (D, R).

    prompt[l, n, d] = mean over k of layer[l, k] position[n, k] feature[d, k] (LPI, low-rank
    decomposition of the prompts).
    """
    return torch.einsum("lk,nk,dk->lnd", layer, position, feature) / layer.shape[1]


@dataclass(frozen=True)
class LayerAlignmentConfig:
    """Contrast of the same layer's prompts across modalities (LPI's layer level)."""

    weight: Weight = 0.1
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = 0.01


@dataclass(frozen=True)
class TaskContrastConfig:
    """Contrast of the tasks' prompts by the tasks' similarity (LPI's task level).

    `source` says where the similarity comes from; matrix is the file that `benchmark.similarity`
    names. Only tasks so far enter, whichever it is. With `centre`, features are compared once their
    mean over these tasks is taken away; a given matrix is taken as it is. Tasks attract that are
    more alike than `threshold`, or, with `threshold_quantile`, than that share of all pairs so far.
    Either way the first two tasks, of which nothing says whether they are alike, repel. `sigmoid`
    is how often one acts in the loss: see `nt_bxent`.
    """

    weight: Weight = 0.1
    source: SimilaritySource = "captions"
    centre: bool = False
    threshold: float = 0.4
    threshold_quantile: float | None = None
    temperature: float = 1.0
    sigmoid: Sigmoid = "double"

    def __post_init__(self) -> None:
        quantile = self.threshold_quantile
        if quantile is not None and not 0 <= quantile <= 1:
            raise ValueError(f"threshold_quantile={quantile} must be from 0 to 1, or null")


@dataclass(frozen=True)
class LowRankConfig:
    """The settings of LPI.

    `prompt_depth` null means every layer of both towers, and a number as many of each as it has.
    `constructed_depth` is for how many layers there are factors, which the loss terms see all, and
    null for those that enter; `init_seed` draws them by another seed than the run's. The released
    retrieval code has factors for nine layers from seed 1, of which the first layer's prompt
    enters. `text_prompt_length` null means `prompt_length` for both towers. With `task_start` same,
    every task's factors start from one draw: what then differs between tasks is what they learned,
    so that their features stay comparable in one gallery (our own choice); with own, each task has
    its own draw, as released.

    `entry` is how prompts enter a grounder: see `GroundingLowRank`; auto is add. A dual encoder has
    one way: they are inserted at the first layer and added to the same places of later ones.
    """

    rank: int = 4
    prompt_length: int = 16
    text_prompt_length: int | None = None
    prompt_depth: int | None = None
    constructed_depth: int | None = None
    init_std: float = 0.5
    init_seed: int | None = None
    task_start: Literal["same", "own"] = "same"
    entry: Literal["auto", "add", "insert"] = "insert"
    layer_alignment: LayerAlignmentConfig = LayerAlignmentConfig()
    task_contrast: TaskContrastConfig = TaskContrastConfig()
    interaction: InteractionConfig = field(default_factory=InteractionConfig)

    def __post_init__(self) -> None:
        check_at_least(1, self, "rank", "prompt_length", "text_prompt_length", "constructed_depth")
        # From factors of zero no gradient leaves: each one's is a product of the other two.
        check_positive(self, "init_std")
        for term in ("layer_alignment", "task_contrast"):
            check_weight(f"{term}.weight", getattr(self, term).weight)
        if self.layer_alignment.temperature <= 0 or self.task_contrast.temperature <= 0:
            raise ValueError("temperatures must be above 0")


class TaskFactors(nn.Module):
    """The factors of one task: R (L + Nv + Nt + Dv + Dt) numbers, and those of the interaction.

    The interaction draws after the prompts, which therefore start the same with and without it.
    """

    def __init__(
        self,
        config: LowRankConfig,
        depth: int,
        lengths: dict[Modality, int],
        widths: dict[Modality, int],
        interaction: tuple[int, float],
        generator: torch.Generator,
    ) -> None:
        """`interaction` is for how many layers it has rows, and its norms' weight at the start."""
        super().__init__()
        std = config.init_std

        def factor(rows: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, config.rank, generator=generator) * std)

        self.layer = factor(depth)
        self.position = nn.ParameterDict({m: factor(lengths[m]) for m in MODALITIES})
        self.feature = nn.ParameterDict({m: factor(widths[m]) for m in MODALITIES})
        rows, scale = interaction
        self.interaction: LowRankInteraction | None = None
        if rows:
            self.interaction = LowRankInteraction(
                config.interaction, rows, widths, std, scale, generator
            )


#: A task's prompts by tower, each one a tensor (L, N, D) for each run of layers of one width.
Runs = Mapping[Modality, Sequence[Tensor]]


def prompt_terms(
    config: LowRankConfig,
    tasks: Sequence[Runs],
    similarity: Tensor | None,
    *,
    task: int,
) -> dict[str, Tensor]:
    """LPI's weighted loss terms of the newest of `tasks`, whose place in the stream is `task`.

    Layer alignment, and task contrast from the second task on, where earlier prompts are constants;
    `similarity` (K, K) is that of the tasks.
    """
    align, contrast = config.layer_alignment, config.task_contrast
    align_weight, contrast_weight = (weight_at(t.weight, task) for t in (align, contrast))
    terms: dict[str, Tensor] = {}
    if align_weight:
        # Means over features, (L, N, 1): these compare whatever the layers' widths. Layers and
        # positions are compared one by one: those that both towers have.
        means = {
            m: torch.cat([run.mean(dim=2, keepdim=True) for run in tasks[-1][m]])
            for m in MODALITIES
        }
        layers, length = (min(mean.shape[axis] for mean in means.values()) for axis in (0, 1))
        terms["layer_alignment"] = align_weight * layer_alignment(
            means["vision"][:layers, :length],
            means["text"][:layers, :length],
            similarity=align.similarity,
            temperature=align.temperature,
        )
    if contrast_weight and similarity is not None and len(tasks) > 1:
        stacked = {
            m: torch.stack(
                [_flat(prompts[m]).detach() for prompts in tasks[:-1]] + [_flat(tasks[-1][m])]
            )  # (K, numbers of a task's prompts)
            for m in MODALITIES
        }
        terms["task_contrast"] = contrast_weight * task_contrast(
            stacked["vision"],
            stacked["text"],
            similarity[: len(tasks), : len(tasks)],
            threshold=contrast.threshold,
            quantile=contrast.threshold_quantile,
            temperature=contrast.temperature,
            sigmoid=contrast.sigmoid,
            # As released, a row without a negative makes the loss and its gradient NaN, which
            # would end the run: it contributes 0 for them here.
            empty="zero",
        )
    return terms


def _flat(runs: Sequence[Tensor]) -> Tensor:
    return torch.cat([run.flatten() for run in runs])
