"""LPI: low-rank prompts with a layer factor that both modalities share.

Yan et al., "Low-rank Prompt Interaction for Continual Vision-Language Retrieval", ACM MM 2024
(arXiv 2501.14369).

With a rank R and lengths Nv and Nt a task learns R (L + Nv + Nt + Dv + Dt) numbers, and with an
interaction of rank r and l rows 2 r (l + Dv + Dt + 1) + 2 (Dv + Dt) more. At the released sizes of
retrieval (ViT-B/16, R = 4, N = 16, factors for 9 layers) that is 5,284, and 5,296 with all 12. On a
grounder Dv is the width of the first vision block where prompts are added, so that a task of the
released sizes (Swin-T, BERT, R = r = 4, N = 16, L = 9, l = 12) learns 3,620 + 8,744 = 12,364; where
they are inserted it is the largest width of a block.

What the released code does and what differs here, unless the config says otherwise:

- Retrieval: one prompt enters, before the first layer, of factors for nine layers; here a prompt
  enters every layer. Both codes have no interaction: see `system.methods.interaction`.
- Each task's factors are drawn anew; here all tasks start from one draw, which is our own choice
  (`task_start`).
- The task contrast is without a gradient, at a temperature of 0.001 through two sigmoids; here it
  is the usual binary NT-Xent. Its target is a fixed matrix of similarities of the tasks' names;
  here the similarity of their captions, centred over the tasks so far.
- Grounding: as released, except that each sample takes part in its own task's interaction, not in
  that of the batch's first sample.

Legend: L layers, N prompt length, D width of a tower, R rank, K tasks so far, B batch.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from system.backbones.dual_encoder import MODALITIES, BackboneShape, Modality
from system.errors import ConfigError
from system.grounders.entries import Added, Entries
from system.grounders.grounder import Grounder, GrounderShape, GroundingBatch
from system.grounders.lockstep import rectangle
from system.methods.base import Method, MethodFactory, MethodSetting
from system.methods.losses import attracting
from system.methods.low_rank import LowRankConfig, TaskFactors, low_rank_prompt, prompt_terms
from system.methods.parts import depth_within, layer_widths, prompt_lengths, weight_at


class LowRankPrompts(Method):
    """The low-rank prompts of one task in a dual encoder's towers."""

    def __init__(self, config: LowRankConfig, setting: MethodSetting[Any]) -> None:
        super().__init__()
        self.config = config
        self.similarity_source = config.task_contrast.source
        self.similarity_centred = config.task_contrast.centre
        self.widths = self._widths(setting.shape)
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
        self.tokens_interact = self._tokens_interact()
        self.interacting = self._interacting(config.interaction.depth)
        lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        self.placeholders = lengths["text"]
        self.factors = TaskFactors(
            config,
            depth,
            lengths,
            {m: max(self.widths[m]) for m in MODALITIES},
            self._interaction_sizes(),
            setting.generator(),
        )

    def _widths(self, shape: BackboneShape | GrounderShape) -> dict[Modality, tuple[int, ...]]:
        """Width of each layer's prompt."""
        return {m: layer_widths(shape, m) for m in MODALITIES}

    def _tokens_interact(self) -> bool:
        """Whether the towers' tokens interact, not the prompts before they enter."""
        if self.config.entry == "add":
            raise ConfigError(
                "method.entry=add is for a grounder; a dual encoder's prompts enter in one way: "
                "leave it auto"
            )
        if self.config.interaction.operands == "tokens":
            raise ConfigError(
                "method.interaction.operands=tokens: a dual encoder's feature must not depend on "
                "what it is compared with; use prompts, or a grounder (experiment=rec_stream)"
            )
        return False

    def _interacting(self, depth: int | Literal["auto"] | None) -> int:
        """In how many layers the towers interact: from the first, or of tokens from the second.

        Before the first layer tokens hold nothing but themselves.
        """
        most = min(self.entered.values()) - self.tokens_interact
        if depth == "auto":
            return most if self.tokens_interact else 0
        if depth is not None and depth > most:
            places = "their tokens can interact in" if self.tokens_interact else "their prompts in"
            raise ConfigError(
                f"method.interaction.depth={depth} does not fit prompts that enter "
                f"{min(self.entered.values())} layers of both towers: {places} {most}; use 0 (off) "
                f"to {most}, or null for all of them"
            )
        return most if depth is None else depth

    def _interaction_sizes(self) -> tuple[int, float]:
        """For how many layers there are factors, and the norms' weight at the start.

        That of prompts is the standard deviation of a mean over the rank of products of three
        normal numbers: it begins near what is learned without. Of tokens it is 1, and there are
        factors for every layer that both towers have, as released, of which some are never used.
        """
        if not self.interacting:
            return 0, 0.0
        if self.tokens_interact:
            return min(len(widths) for widths in self.widths.values()), 1.0
        return self.interacting, self.config.init_std**3 / self.config.rank**0.5

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
    def attracts(self, similarity: Tensor) -> Tensor | None:
        """None too where the contrast's weight is 0."""
        contrast = self.config.task_contrast
        if not weight_at(contrast.weight, self.index):
            return None
        return attracting(similarity, contrast.threshold, contrast.threshold_quantile)

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

    `entry` add, as released: prompts are added to tokens, the textual ones (N, D) to the first N of
    the expression, the visual ones, which are as wide as the first stage, to the top-left rectangle
    of the feature map. A block of width d reads them as (N D / d, d). See
    `system.grounders.lockstep` for the order of things, and for the interaction of tokens.

    `entry` insert, which is our own: prompts stand beside the tokens in every window and behind the
    text. A Swin's width grows from stage to stage: the tower's feature factor (D, R) is as long as
    its widest layer, and a narrower one of width d takes the first d features, in the prompt as in
    the interaction's maps and norms.
    """

    def __init__(self, config: LowRankConfig, setting: MethodSetting[Any]) -> None:
        self.adds = config.entry != "insert"
        super().__init__(config, setting)
        self.block_widths: tuple[int, ...] = setting.shape.vision_widths
        if self.adds:
            self._check_room(setting.shape)

    @override
    def _widths(self, shape: BackboneShape | GrounderShape) -> dict[Modality, tuple[int, ...]]:
        widths = super()._widths(shape)
        if self.adds:
            widths["vision"] = (widths["vision"][0],) * len(widths["vision"])
        return widths

    @override
    def _tokens_interact(self) -> bool:
        operands = self.config.interaction.operands
        if operands == "tokens" and not self.adds:
            raise ConfigError(
                "method.interaction.operands=tokens needs method.entry=add: inserted prompts leave "
                "no token in the towers that could interact"
            )
        return self.adds and operands != "prompts"

    def _check_room(self, shape: GrounderShape) -> None:
        """Raises ConfigError for a prompt that has no place among the tokens."""
        length, width = len(self.factors.position["vision"]), self.widths["vision"][0]
        for layer in range(self.entered["vision"]):
            wide = shape.vision_widths[layer]
            if length * width % wide:
                raise ConfigError(
                    f"method.prompt_length={length} with method.entry=add: {length} prompts as "
                    f"wide as the first stage, {width}, are no whole number of tokens {wide} wide, "
                    f"as block {layer + 1} has; use a multiple of {wide // math.gcd(wide, width)}"
                )
            rows, columns = rectangle(length * width // wide)
            if shape.vision_sides and max(rows, columns) > shape.vision_sides[layer]:
                side = shape.vision_sides[layer]
                raise ConfigError(
                    f"method.prompt_length={length} with method.entry=add takes {rows} x {columns} "
                    f"places of block {layer + 1}, which has {side} x {side}; use a smaller one"
                )
        texts = len(self.factors.position["text"])
        if texts > shape.context_length:
            raise ConfigError(
                f"method.text_prompt_length={texts} is longer than the grounder's texts of at most "
                f"{shape.context_length} tokens; use a smaller one"
            )

    @override
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        prompts = self.prompts()
        vision = [prompt[None] for prompt in prompts["vision"]]
        text = [prompt[None] for prompt in prompts["text"]]
        if not self.adds:
            return Entries(vision=vision, text=text)
        as_wide = [
            prompt.reshape(1, -1, width)
            for prompt, width in zip(vision, self.block_widths, strict=False)
        ]
        if not (self.tokens_interact and self.interacting):
            return Entries(added=Added(as_wide, text))
        return Entries(added=Added(as_wide, text, self.exchange, range(1, 1 + self.interacting)))

    def exchange(self, layer: int, vision: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """The two towers' tokens, once they took in each other, before a layer of that index.

        `vision` (B, n, d) is read as (B, N, D), as wide as a prompt; `text` is (B, N, D).
        """
        interaction = self.factors.interaction
        assert interaction is not None
        read = vision.reshape(len(vision), -1, self.widths["vision"][0])
        found = interaction({"vision": read[:, None], "text": text[:, None]}, layer)
        return found["vision"].reshape(vision.shape), found["text"][:, 0]

    def prompts(self) -> dict[Modality, list[Tensor]]:
        """Each tower's prompts (N, D), one a layer, after an interaction of prompts."""
        own = {m: [prompt for run in self.runs(m) for prompt in run] for m in MODALITIES}
        interaction = self.factors.interaction
        if interaction is None or self.tokens_interact:
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
