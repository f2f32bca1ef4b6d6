"""CoCoOp on a grounder: a context for the text, moved by what its image looks like.

Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (arXiv 2203.05557),
section 3.2: v_n(x) = v_n + h(x), where h is a network of two linear layers with a ReLU between them
and a hidden layer of a sixteenth of the image feature's width. The context is the sample's own, as
Diff-Prompt's prompts are, but it is made without a mask: a control for what masks add.

What differs from the paper: x is the frozen grounder's image feature, each level's mean of its
vision tower at unit length; the context passes through the text tower behind the expression, not
before a class name, and starts normal instead of at the words "a photo of a". In retrieval a text's
feature would depend on the image that it is compared with, and so would every score of a gallery.

Trainable parameters: N D + H (P + 1) + D (H + 1), H = floor(P / 16).

Legend: B batch, N context length, D width of the text tower, P width of the image's feature, H
hidden width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear
from typing_extensions import override

from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory
from system.methods.parts import check_positive, normal, uniform


@dataclass(frozen=True)
class CocoopConfig:
    """The settings of CoCoOp; the defaults are the published ones."""

    context_length: int = 4
    reduction: int = 16  # the hidden layer's width is that of the image's feature over this
    init_std: float = 0.02  # of the context

    def __post_init__(self) -> None:
        check_positive(self, "context_length", "reduction", "init_std")


class Cocoop(Method):
    """The context (N, D) and the network from an image's feature to what is added to it."""

    def __init__(self, config: CocoopConfig, setting: GroundingSetting) -> None:
        super().__init__()
        generator = setting.generator()
        width, given = setting.shape.text_widths[0], setting.shape.image_feature_width
        hidden = max(1, given // config.reduction)
        self.context = normal(
            config.context_length, width, std=config.init_std, generator=generator
        )
        self.inner_weight = uniform(hidden, given, inputs=given, generator=generator)
        self.inner_bias = uniform(hidden, inputs=given, generator=generator)
        self.outer_weight = uniform(width, hidden, inputs=hidden, generator=generator)
        self.outer_bias = uniform(width, inputs=hidden, generator=generator)

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        features = grounder.batch_features(batch)  # [B, P]
        features = features.detach().to(self.context)
        return Entries(context=self.context + self.shift(features)[:, None])

    def shift(self, features: Tensor) -> Tensor:
        """What images' features (B, P) add to every vector of their context, (B, D)."""
        hidden = torch.relu(linear(features, self.inner_weight, self.inner_bias))
        return linear(hidden, self.outer_weight, self.outer_bias)


METHOD = MethodFactory(
    CocoopConfig,
    grounding=Cocoop,
    refusal=(
        "makes a text's context from the image that it stands beside: in retrieval a text's "
        "feature would depend on the image it is compared with"
    ),
)
