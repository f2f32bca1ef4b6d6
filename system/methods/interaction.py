"""LPI's cross-modal interaction: each tower takes in a little of the other one.

Yan et al., "Low-rank Prompt Interaction for Continual Vision-Language Retrieval", ACM MM 2024
(arXiv 2501.14369): v' = LN((1 - a) v + a (t W + b)), and the same for t' from the old v, with W and
b of each layer slices of a low-rank product.

On a dual encoder what interacts are learned prompts, before they enter the towers, never tokens
that already hold an image or a text: a feature must not depend on what it will be compared with.
The released retrieval code has no interaction at all. A grounder gets image and expression as a
pair: there tokens interact, as in the released grounding code, at the places where prompts were
added to them.

Legend: L layers, N prompt length, D width of a tower, R rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import MODALITIES, Modality

OTHER: dict[Modality, Modality] = {"vision": "text", "text": "vision"}


@dataclass(frozen=True)
class InteractionConfig:
    """Cross-modal interaction of the two towers' prompts, or of their tokens on a grounder.

    `operands` auto means tokens where a grounder's prompts are added, else prompts. `depth` counts
    the layers in which the towers interact, prompts from the first and tokens from the second on: 0
    is off, null means every layer that prompts of both towers enter, auto that for tokens and off
    for prompts. `rank` is the module's own.
    """

    operands: Literal["auto", "prompts", "tokens"] = "prompts"
    depth: int | Literal["auto"] | None = 0
    rank: int = 4
    mix: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.depth, int) and self.depth < 0:
            raise ValueError(f"depth={self.depth} must be at least 0, or null, or auto")
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1")
        if not 0 < self.mix <= 1:
            raise ValueError(f"mix={self.mix} must be above 0 and at most 1; depth=0 is off")


def low_rank_map(x: Tensor, layer: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """x (..., L, N, Din) through each layer's own low-rank affine map, (..., L, N, Dout).

    Factors `layer` (L, R), `source` (Din + 1, R), `target` (Dout, R): the map of layer l is
    mean over k of layer[l, k] source[i, k] target[o, k], whose last row (i = Din) is the bias (LPI,
    interaction). The product of the factors, (L, Din + 1, Dout), is never made.
    """
    inner = (x @ source[:-1] + source[-1]) * layer[:, None]  # (..., L, N, R)
    return inner @ target.T / layer.shape[1]


def matched(x: Tensor, length: int) -> Tensor:
    """x (..., N, D) brought to `length` positions: each one a mean over its share of the N.

    Equal lengths stay as they are, position by position, as published. One position serves all of a
    longer side, and takes the mean of them all; in general position n takes those from the floor
    of n N / length up to the ceiling of (n + 1) N / length.
    """
    positions = x.shape[-2]
    if positions == length:
        return x
    share = torch.zeros(length, positions)
    for n in range(length):
        first, last = n * positions // length, -(-(n + 1) * positions // length)
        share[n, first:last] = 1 / (last - first)
    return share.to(x) @ x


class LowRankInteraction(nn.Module):
    """The interaction of both towers' prompts in each of `depth` layers.

    2 R (L + Dv + Dt + 1) + 2 (Dv + Dt) numbers: a map in each direction, and a layer norm a tower
    that all layers share.
    """

    def __init__(
        self,
        config: InteractionConfig,
        depth: int,
        widths: Mapping[Modality, int],
        std: float,
        scale: float,
        generator: torch.Generator,
    ) -> None:
        """For `depth` layers, whatever `config.depth` says; factors normal with `std`.

        `scale` is the norms' weight at the start. With the usual 1, prompts would leave many times
        larger than they come: from their own scale, interaction begins near what is learned
        without it.
        """
        super().__init__()
        self.depth = depth
        self.mix = config.mix

        def factor(rows: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, config.rank, generator=generator) * std)

        # By the tower that takes in: how it reads the other one.
        self.layer = nn.ParameterDict({m: factor(depth) for m in MODALITIES})
        self.source = nn.ParameterDict({m: factor(widths[OTHER[m]] + 1) for m in MODALITIES})
        self.target = nn.ParameterDict({m: factor(widths[m]) for m in MODALITIES})
        self.norm_weight = nn.ParameterDict(
            {m: nn.Parameter(torch.full((widths[m],), scale)) for m in MODALITIES}
        )
        self.norm_bias = nn.ParameterDict(
            {m: nn.Parameter(torch.zeros(widths[m])) for m in MODALITIES}
        )

    def forward(self, prompts: Mapping[Modality, Tensor], first: int = 0) -> dict[Modality, Tensor]:
        """Both towers' prompts (..., L, N, D) of the layers from `first` on, after the interaction.

        Their lengths may differ: see `matched`. Both sides read what the other one was before. A
        prompt that is narrower than the tower's width takes the first of its features: of factors,
        biases and norms alike.
        """
        return {m: self._taken_in(m, prompts[m], prompts[OTHER[m]], first) for m in MODALITIES}

    def _taken_in(self, modality: Modality, own: Tensor, other: Tensor, first: int) -> Tensor:
        layers, width = own.shape[-3], own.shape[-1]
        source = self.source[modality]  # its last row is the bias
        # The map is affine and a share sums to 1: matching first or last gives the same.
        message = low_rank_map(
            matched(other, own.shape[-2]),
            self.layer[modality][first : first + layers],
            torch.cat([source[: other.shape[-1]], source[-1:]]),
            self.target[modality][:width],
        )
        return nn.functional.layer_norm(
            (1 - self.mix) * own + self.mix * message,
            (width,),
            self.norm_weight[modality][:width],
            self.norm_bias[modality][:width],
        )
