"""LPI: low-rank prompts with a layer factor that both modalities share.

Yan et al., "Low-rank Prompt Interaction for Continual Vision-Language Retrieval", ACM MM 2024
(arXiv 2501.14369).

With a rank R and lengths Nv and Nt a task learns R (L + Nv + Nt + Dv + Dt) numbers, and with an
interaction of rank r in l layers 2 r (l + Dv + Dt + 1) + 2 (Dv + Dt) more. At the published sizes
(ViT-B/16, R = 4, N = 16) that is 5,296, and 12,904 more with r = 4 in all 12 layers. On a grounder
Dv and Dt are the largest widths of the towers' layers.

Legend: L layers, N prompt length, D width of a tower, R rank, K tasks so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.grounders.grounder import Entries, Grounder, GroundingBatch
from system.methods.base import Method, MethodFactory, MethodSetting, SimilaritySource
from system.methods.interaction import InteractionConfig, LowRankInteraction
from system.methods.losses import layer_alignment, task_contrast
from system.methods.parts import (
    Weight,
    check_at_least,
    check_positive,
    check_weight,
    depth_within,
    layer_widths,
    prompt_lengths,
    weight_at,
)


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
    names. Only tasks so far enter, whichever it is.
    """

    weight: Weight = 0.1
    source: SimilaritySource = "captions"
    threshold: float = 0.4
    temperature: float = 1.0
    sigmoid: Literal["double"] = "double"


@dataclass(frozen=True)
class LowRankConfig:
    """The settings of LPI.

    `prompt_depth` null means every layer of both towers, and a number as many of each as it has.
    `constructed_depth` is for how many layers there are factors, which the loss terms see all, and
    null for those that enter; `init_seed` draws them by another seed than the run's. The released
    retrieval code has factors for nine layers from seed 1, of which the first layer's prompt
    enters. `text_prompt_length` null means `prompt_length` for both towers. With `task_start` same,
    every task's factors start from one draw: what then differs between tasks is what they learned,
    so that their features stay comparable in one gallery; with own, each task has its own draw.
    """

    rank: int = 4
    prompt_length: int = 16
    text_prompt_length: int | None = None
    prompt_depth: int | None = None
    constructed_depth: int | None = None
    init_std: float = 0.5
    init_seed: int | None = None
    task_start: Literal["same", "own"] = "same"
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
        interacting: int,
        lengths: dict[Modality, int],
        widths: dict[Modality, int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        std = config.init_std

        def factor(rows: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, config.rank, generator=generator) * std)

        self.layer = factor(depth)
        self.position = nn.ParameterDict({m: factor(lengths[m]) for m in MODALITIES})
        self.feature = nn.ParameterDict({m: factor(widths[m]) for m in MODALITIES})
        self.interaction: LowRankInteraction | None = None
        if interacting:
            # The standard deviation of a mean over the rank of products of three normal numbers.
            scale = std**3 / config.rank**0.5
            self.interaction = LowRankInteraction(
                config.interaction, interacting, widths, std, scale, generator
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
            temperature=contrast.temperature,
            # As released, a row without a negative makes the loss and its gradient NaN, which
            # would end the run: it contributes 0 for them here.
            empty="zero",
        )
    return terms


def _flat(runs: Sequence[Tensor]) -> Tensor:
    return torch.cat([run.flatten() for run in runs])


class LowRankPrompts(Method):
    """The low-rank prompts of one task in a dual encoder's towers."""

    def __init__(self, config: LowRankConfig, setting: MethodSetting[Any]) -> None:
        super().__init__()
        self.config = config
        self.similarity_source = config.task_contrast.source
        self.widths = {m: layer_widths(setting.shape, m) for m in MODALITIES}
        entering = depth_within(config.prompt_depth, setting.shape)
        depth = entering if config.constructed_depth is None else config.constructed_depth
        if depth < entering:
            raise ConfigError(
                f"method.constructed_depth={depth} is fewer than the {entering} layers that "
                "prompts enter (method.prompt_depth); raise it, or set it to null"
            )
        if config.init_seed is not None:
            setting = replace(setting, seed=config.init_seed)
        if config.task_start == "same":
            setting = replace(setting, task=0)
        self.entered = {m: min(entering, len(self.widths[m])) for m in MODALITIES}
        self.interacting = self._interacting(config.interaction.depth)
        lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        self.placeholders = lengths["text"]
        self.factors = TaskFactors(
            config,
            depth,
            self.interacting,
            lengths,
            {m: max(self.widths[m]) for m in MODALITIES},
            setting.generator(),
        )

    def _interacting(self, depth: int | None) -> int:
        """In how many layers the towers' prompts interact."""
        most = min(self.entered.values())
        if depth is not None and depth > most:
            raise ConfigError(
                f"method.interaction.depth={depth} does not fit prompts that enter {most} layers "
                f"of both towers; use 0 (off) to {most}, or null for all of them"
            )
        return most if depth is None else depth

    @override
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The five factors, and those of the interaction if that is on."""
        return dict(self.factors.named_parameters())

    def full_prompt(self, modality: Modality) -> Tensor:
        """The prompt (L, N, D) of all layers that have factors."""
        factors = self.factors
        return low_rank_prompt(factors.layer, factors.position[modality], factors.feature[modality])

    @override
    def prompt(self, modality: Modality) -> Tensor:
        """The prompt (L, N, D) of the tower's layers that are entered.

        With interaction, the two towers' prompts of one layer interact, layer by layer, and what
        leaves enters. It is not carried over to the next layer's prompt: that one is added to
        tokens which hold it already.
        """
        own = self.full_prompt(modality)[: self.entered[modality]]
        interaction = self.factors.interaction
        if interaction is None:
            return own
        layers = interaction.depth
        towers = {m: self.full_prompt(m)[:layers] for m in MODALITIES}
        return torch.cat([interaction(towers)[modality], own[layers:]])

    def runs(self, modality: Modality) -> list[Tensor]:
        """The low-rank product before any interaction, (l, N, D) for each run of one width.

        Of all layers that have factors, whether or not the tower has so many: see `prompt_terms`.
        """
        full = self.full_prompt(modality)
        if self.config.constructed_depth is None:
            full = full[: self.entered[modality]]
        return [full]

    @override
    def regularisers(
        self, earlier: Sequence[Self] = (), similarity: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Layer alignment, and task contrast with the tasks before."""
        return prompt_terms(
            self.config,
            [{m: method.runs(m) for m in MODALITIES} for method in (*earlier, self)],
            similarity,
            task=self.index,
        )


class GroundingLowRank(LowRankPrompts):
    """The low-rank prompts of one task in the blocks of a Swin and the layers of a BERT.

    The paper has one width a tower; a Swin's grows from stage to stage. Our adaptation: the tower's
    feature factor (D, R) is as long as its widest layer, and a narrower one of width d takes the
    first d features, in the prompt as in the interaction's maps and norms. With equal widths this
    is the published product.
    """

    @override
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
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
        pairs = zip(*(self.widths[m][: self.interacting] for m in MODALITIES), strict=True)
        for _, run in groupby(enumerate(pairs), key=lambda layer: layer[1]):
            layers = [index for index, _ in run]  # of one width in either tower
            towers = {m: torch.stack([own[m][index] for index in layers]) for m in MODALITIES}
            for modality, taken_in in interaction(towers, layers[0]).items():
                found[modality] += list(taken_in)
        return {m: found[m] + own[m][self.interacting :] for m in MODALITIES}

    @override
    def runs(self, modality: Modality) -> list[Tensor]:
        factors, found, start = self.factors, [], 0
        for width, run in groupby(self.widths[modality][: self.entered[modality]]):
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


METHOD = MethodFactory(
    LowRankConfig, retrieval=LowRankPrompts, grounding=GroundingLowRank, sharing="own"
)
