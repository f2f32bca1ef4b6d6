"""A trainable copy of a frozen backbone's weights, run through the backbone's own modules."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from system.backbones.dual_encoder import DualEncoder, Modality

#: Parameters that only a pre-training loss reads; features do not depend on them.
OF_THE_LOSS = ("logit_scale", "logit_bias")


class BackboneCopy(nn.Module):
    """All weights that features depend on, about 149 million numbers of a CLIP ViT-B/16.

    The temperature stays the backbone's own: the loss reads it there.
    """

    def __init__(self, backbone: DualEncoder) -> None:
        super().__init__()
        named = {n: p for n, p in backbone.named_parameters() if not n.endswith(OF_THE_LOSS)}
        self._names = tuple(named)
        self.weights = nn.ParameterList([p.detach().clone() for p in named.values()])

    def named_weights(self) -> dict[str, nn.Parameter]:
        """The weights under the backbone's names."""
        return dict(zip(self._names, self.weights, strict=True))

    def encode(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """Features (B, P), not normalised, that the backbone gives with these weights."""
        weights: dict[str, torch.Tensor] = {**self.named_weights()}
        features: Tensor = functional_call(backbone, weights, (modality, inputs, None))
        return features
