"""LPI: low-rank prompts with a layer factor that both modalities share.

Yan et al., "Low-rank Prompt Interaction for Continual Vision-Language Retrieval", ACM MM 2024
(arXiv 2501.14369).

With a rank R and lengths Nv and Nt a task learns R (L + Nv + Nt + Dv + Dt) numbers, and with an
interaction of rank r in l layers 2 r (l + Dv + Dt + 1) + 2 (Dv + Dt) more. At the published sizes
(ViT-B/16, R = 4, N = 16) that is 5,296, and 12,904 more with r = 4 in all 12 layers.

Legend: L layers, N prompt length, D width of a tower, R rank, K tasks so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.errors import ConfigError
from system.methods.interaction import InteractionConfig, LowRankInteraction
from system.methods.losses import layer_alignment, task_contrast
from system.methods.method import (
    MethodFactory,
    MethodSetting,
    PromptMethod,
    prompt_lengths,
)
from system.methods.stream_method import SimilaritySource, task_generator
from system.methods.weight_schedule import Weight, check_weight, weight_at

PUBLISHED_CONSTRUCTED_DEPTH = 9
PUBLISHED_TEMPERATURE = 0.001


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


@dataclass(frozen=True)
class LowRankConfig:
    """The settings of LPI.

    `prompt_depth` null means every layer of both towers, and a number as many of each as it has;
    `text_prompt_length` null means `prompt_length` for both towers. With `task_start` same, every
    task's factors start from one draw: what then differs between tasks is what they learned, so
    that their features stay comparable in one gallery; with own, each task has its own draw.
    """

    rank: int = 4
    prompt_length: int = 16
    text_prompt_length: int | None = None
    prompt_depth: int | None = None
    init_std: float = 0.5
    task_start: Literal["same", "own"] = "same"
    layer_alignment: LayerAlignmentConfig = LayerAlignmentConfig()
    task_contrast: TaskContrastConfig = TaskContrastConfig()
    interaction: InteractionConfig = field(default_factory=InteractionConfig)

    def __post_init__(self) -> None:
        for name in ("rank", "prompt_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.text_prompt_length is not None and self.text_prompt_length < 1:
            raise ValueError(f"text_prompt_length={self.text_prompt_length} must be at least 1")
        # From factors of zero no gradient leaves: each one's is a product of the other two.
        if not self.init_std > 0:
            raise ValueError(f"init_std={self.init_std} must be above 0")
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
            # The spread of a mean over the rank of products of three normal numbers.
            spread = std**3 / config.rank**0.5
            self.interaction = LowRankInteraction(
                config.interaction, interacting, widths, std, spread, generator
            )


#: A task's prompts by tower, each one a tensor (L, N, D) for each run of layers of one width.
Runs = Mapping[Modality, Sequence[Tensor]]


def prompt_terms(
    config: LowRankConfig,
    tasks: Sequence[Runs],
    similarity: Tensor | None,
    *,
    published: bool = False,
) -> dict[str, Tensor]:
    """LPI's weighted loss terms of the newest task's prompts, given all tasks' so far.

    Layer alignment, and task contrast from the second task on, where earlier prompts are constants;
    `similarity` (K, K) is that of the tasks.
    """
    align, contrast = config.layer_alignment, config.task_contrast
    align_weight, contrast_weight = (weight_at(t.weight, len(tasks) - 1) for t in (align, contrast))
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
            similarity="dot" if published else align.similarity,
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
            temperature=PUBLISHED_TEMPERATURE if published else contrast.temperature,
            # As released, a row without a negative makes the loss and its gradient NaN, which
            # would end the run: it contributes 0 for them here.
            empty="zero",
        )
    return terms


def _flat(runs: Sequence[Tensor]) -> Tensor:
    return torch.cat([run.flatten() for run in runs])


class LowRankPrompts(PromptMethod):
    """Low-rank prompts of every task so far; only the current task's factors train."""

    def __init__(self, config: LowRankConfig, setting: MethodSetting) -> None:
        super().__init__()
        shape = setting.shape
        layers = {m: shape.layers(m) for m in MODALITIES}
        deepest = max(layers.values())
        depth = deepest if config.prompt_depth is None else config.prompt_depth
        if not 1 <= depth <= deepest:
            raise ConfigError(
                f"method.prompt_depth={depth} does not fit a backbone of {shape.vision_layers} "
                f"vision and {shape.text_layers} text layers; use 1..{deepest}"
            )
        self.config = config
        self.lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        self.placeholders = self.lengths["text"]
        self.similarity_source = config.task_contrast.source
        self.published = setting.protocol == "published"
        # As released: the configured seed and depth are not read. Factors are made for nine
        # layers from seed 1, and only the first layer's prompt enters.
        self.depth = PUBLISHED_CONSTRUCTED_DEPTH if self.published else depth
        self.entered: dict[Modality, int] = {
            m: 1 if self.published else min(depth, layers[m]) for m in MODALITIES
        }
        self.interacting = self._interacting(config.interaction.depth)
        self.seed = 1 if self.published else setting.seed
        self.widths: dict[Modality, int] = {m: shape.width(m) for m in MODALITIES}
        self.tasks = nn.ModuleList()

    @property
    def known_tasks(self) -> int:
        """How many tasks have factors."""
        return len(self.tasks)

    def add_task(self, backbone: DualEncoder) -> None:
        """New factors, normal with `init_std`, from the start that the config names."""
        own = self.published or self.config.task_start == "own"
        generator = task_generator(self.seed, len(self.tasks) if own else 0)
        factors = TaskFactors(
            self.config, self.depth, self.interacting, self.lengths, self.widths, generator
        )
        device = next(backbone.parameters()).device
        self.tasks.append(factors.to(device))

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The five factors of a task, and those of its interaction if that is on."""
        return dict(self.tasks[task].named_parameters())

    def full_prompt(self, modality: Modality, task: int) -> Tensor:
        """The prompt (L, N, D) of all layers that have factors."""
        factors = self.tasks[task]
        assert isinstance(factors, TaskFactors)
        return low_rank_prompt(factors.layer, factors.position[modality], factors.feature[modality])

    def prompt(self, modality: Modality, task: int) -> Tensor:
        """The prompt (L, N, D) of the tower's layers that are entered.

        With interaction, the two towers' prompts of one layer interact, layer by layer, and what
        leaves enters. It is not carried over to the next layer's prompt: that one is added to
        tokens which hold it already.
        """
        own = self._before_interaction(modality, task)
        interaction = self.tasks[task].interaction
        if not isinstance(interaction, LowRankInteraction):
            return own
        layers = interaction.depth
        towers = {m: self.full_prompt(m, task)[:layers] for m in MODALITIES}
        return torch.cat([interaction(towers)[modality], own[layers:]])

    def _before_interaction(self, modality: Modality, task: int) -> Tensor:
        return self.full_prompt(modality, task)[: self.entered[modality]]

    def _interacting(self, depth: int | None) -> int:
        """In how many layers the towers' prompts interact."""
        most = min(self.entered.values())
        if depth is not None and depth > most:
            raise ConfigError(
                f"method.interaction.depth={depth} does not fit prompts that enter {most} layers "
                f"of both towers; use 0 (off) to {most}, or null for all of them"
            )
        return most if depth is None else depth

    def regularisers(self, similarity: Tensor | None) -> dict[str, Tensor]:
        """Layer alignment of the current task, and task contrast from the second task on."""
        return prompt_terms(
            self.config,
            [
                {m: [self._regularised(m, task)] for m in MODALITIES}
                for task in range(self.current + 1)
            ],
            similarity,
            published=self.published,
        )

    def _regularised(self, modality: Modality, task: int) -> Tensor:
        """What the regularisers see: the low-rank product before any interaction.

        The layers that enter; as released, all nine.
        """
        if self.published:
            return self.full_prompt(modality, task)
        return self._before_interaction(modality, task)


METHOD = MethodFactory(LowRankConfig, LowRankPrompts)
