"""DCP: deeply coupled cross-modal prompts, exchanged between the towers layer after layer.

Liu et al., "Deeply coupled cross-modal prompt learning", Findings of ACL 2023 (arXiv 2305.17903).
Each tower's first layer has learned prompts; those of every later layer come from the layer before
by cross-modal prompt attention (CMPA): queries are the other tower's prompts, brought to this
tower's width, keys and values the own ones, followed by an MLP, both with residuals and layer
norms. Deep prompts replace. All tasks share the parameters, trained on one task after the other;
with `sharing: own`, as in LPI's comparison, each task has its own, all from one draw, and the
router names the task.

In the paper the attention reads what the frozen layer made of the prompts, which depends on image
and text (the released code takes its mean over the batch). Then a feature would depend on the
samples it comes with, and galleries could not be encoded on their own. Here it reads the prompts
as they entered the layer before: they stay parameters, equal for all samples.

On a grounder, in a form of ours, prompts stand beside the tokens of every window of the Swin and of
every BERT layer. A Swin grows wider: its prompts keep the first block's width, so that one
attention can carry them on, and are read at a wider block's, N Dv / Dl rows. Heads are the widest
that divide the tower's width and `head_width`: of 32 in a Swin-T, of 64 in BERT, as their own are.

N (Dv + Dt) + C (12 Dv^2 + 12 Dt^2 + 2 Dv Dt + 14 Dv + 14 Dt) numbers in all, C = 1 attention for
all layers, or L - 1 with `attention` "per_layer" (the last one without a tower that is less deep).
At the published sizes (ViT-B/16, N = 16, shared): 11,048,448; on a grounder of Swin-T and
BERT-base (Dv = 96, of its first block): 7,361,856.

Legend: L layers with prompts, N prompt length, Dv and Dt widths of the towers, Dl of a block.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, RetrievalSetting
from system.methods.interaction import OTHER
from system.methods.parts import (
    check_at_least,
    check_positive,
    check_readable,
    depth_in_each,
    depth_within,
    normal,
    read_at_widths,
    uniform,
)

MLP_RATIO = 4


@dataclass(frozen=True)
class DcpConfig:
    """The settings of DCP.

    `prompt_depth` null means every layer of both towers, and a number as many of each as it has;
    on a grounder null is as many as both have. `head_width` is that of CLIP's own attention; a
    narrower tower gets one head, or on a grounder heads of a width that divides both.
    """

    prompt_length: int = 16
    prompt_depth: int | None = None
    attention: Literal["shared", "per_layer"] = "shared"
    head_width: int = 64
    init_std: float = 0.02

    def __post_init__(self) -> None:
        check_at_least(1, self, "prompt_length", "head_width")
        check_positive(self, "init_std")


class PromptAttention(nn.Module):
    """Cross-modal prompt attention of one tower: how its prompts take in the other tower's."""

    def __init__(self, width: int, other: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads

        def weight(outputs: int, inputs: int) -> nn.Parameter:
            return uniform(outputs, inputs, inputs=inputs, generator=generator)

        def bias(outputs: int, inputs: int) -> nn.Parameter:
            return uniform(outputs, inputs=inputs, generator=generator)

        self.other_weight, self.other_bias = weight(width, other), bias(width, other)
        # Rows: queries, keys, values, output.
        self.attention_weight = weight(4 * width, width)
        self.attention_bias = nn.Parameter(torch.zeros(4 * width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        inner = MLP_RATIO * width
        self.up_weight, self.up_bias = weight(inner, width), bias(inner, width)
        self.down_weight, self.down_bias = weight(width, inner), bias(width, inner)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """The next layer's prompts (N, D) from this layer's, own (N, D) and other (N, Do)."""
        linear = nn.functional.linear
        asking = self.norms[0](linear(other, self.other_weight, self.other_bias))
        mixed = own + self._attend(asking, self.norms[0](own))
        inner = linear(self.norms[1](mixed), self.up_weight, self.up_bias)
        inner = inner * torch.sigmoid(1.702 * inner)  # CLIP's quick GELU
        return mixed + linear(inner, self.down_weight, self.down_bias)

    def _attend(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Multi-head attention of queries (N, D) over keys and values (N, D)."""
        weights, biases = self.attention_weight.chunk(4), self.attention_bias.chunk(4)
        query, key, value = (
            nn.functional.linear(x, weight, bias).view(len(x), self.heads, -1).transpose(0, 1)
            for x, weight, bias in zip((asking, asked, asked), weights, biases, strict=False)
        )  # (heads, N, D / heads)
        scores = query @ key.mT / key.shape[-1] ** 0.5
        read = (scores.softmax(dim=-1) @ value).transpose(0, 1).flatten(1)  # (N, D)
        return nn.functional.linear(read, weights[3], biases[3])


class CarriedPrompts(Method):
    """The first layer's prompts and the attentions that carry them on."""

    def __init__(
        self,
        config: DcpConfig,
        widths: Mapping[Modality, int],
        entered: Mapping[Modality, int],
        heads: Callable[[Modality, int, int], int],
        generator: torch.Generator,
    ) -> None:
        """`entered` counts each tower's prompted layers; `heads` are those of a width."""
        super().__init__()
        self.entered = entered
        self.depth = depth = max(entered.values())
        self.first = nn.ParameterDict(
            {
                m: normal(config.prompt_length, widths[m], std=config.init_std, generator=generator)
                for m in MODALITIES
            }
        )
        self.attention = nn.ModuleList(
            nn.ModuleDict(
                {
                    m: PromptAttention(
                        widths[m],
                        widths[OTHER[m]],
                        heads(m, widths[m], config.head_width),
                        generator,
                    )
                    for m in MODALITIES
                    if into < entered[m] or into < depth - 1
                }
            )
            for into in (range(1, 2) if config.attention == "shared" else range(1, depth))
        )

    def prompts(self) -> dict[Modality, Tensor]:
        """Both towers' prompts (L, N, D): the first learned, each further one from the last."""
        now: dict[Modality, Tensor] = {m: self.first[m] for m in MODALITIES}
        layers = [now]
        for step in range(self.depth - 1):
            attention = self.attention[step % len(self.attention)]
            assert isinstance(attention, nn.ModuleDict)
            now = {m: attention[m](now[m], now[OTHER[m]]) for m in MODALITIES if m in attention}
            layers.append(now)
        return {
            m: torch.stack([layer[m] for layer in layers[: self.entered[m]]]) for m in MODALITIES
        }


class Dcp(CarriedPrompts):
    """DCP on a dual encoder; deep prompts replace."""

    deep = "replace"

    def __init__(self, config: DcpConfig, setting: RetrievalSetting) -> None:
        shape = setting.shape
        # With prompts in one layer there would be nothing that couples the towers.
        depth = depth_within(config.prompt_depth, shape, least=2)
        super().__init__(
            config,
            {m: shape.width(m) for m in MODALITIES},
            {m: min(depth, shape.layers(m)) for m in MODALITIES},
            _heads,
            torch.Generator().manual_seed(setting.seed),
        )
        self.placeholders = config.prompt_length

    @override
    def prompt(self, modality: Modality) -> Tensor:
        return self.prompts()[modality]


class GroundingDcp(CarriedPrompts):
    """DCP on a grounder, in as many layers as both towers have."""

    def __init__(self, config: DcpConfig, setting: GroundingSetting) -> None:
        shape = setting.shape
        depth = depth_in_each(config.prompt_depth, shape, *MODALITIES)
        if depth < 2:
            raise ConfigError(
                f"method.prompt_depth={depth}: with prompts in one layer nothing couples the "
                "towers; use at least 2"
            )
        widths = shape.vision_widths[:depth]
        check_readable(config.prompt_length, widths, "method.prompt_length")
        super().__init__(
            config,
            {m: shape.widths(m)[0] for m in MODALITIES},
            dict.fromkeys(MODALITIES, depth),
            _dividing_heads,
            setting.generator(),
        )
        self.widths = widths

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        prompts = {m: list(layers[:, None]) for m, layers in self.prompts().items()}
        return Entries(vision=read_at_widths(prompts["vision"], self.widths), text=prompts["text"])


def _heads(modality: Modality, width: int, head_width: int) -> int:
    if width > head_width and width % head_width:
        raise ConfigError(
            f"method.head_width={head_width} does not divide the {modality} tower's width of "
            f"{width}; use a divisor of it"
        )
    return max(1, width // head_width)


def _dividing_heads(_: Modality, width: int, head_width: int) -> int:
    return width // math.gcd(width, head_width)


METHOD = MethodFactory(DcpConfig, retrieval=Dcp, grounding=GroundingDcp)
