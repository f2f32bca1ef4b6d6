"""What a frozen backbone's text tower makes of names, such as those of tasks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from system.backbones.dual_encoder import DualEncoder, unit


def name_features(backbone: DualEncoder, names: Sequence[str]) -> Tensor:
    """Unit text features (K, P) of names by a dual encoder; see `each_alone`."""
    device = next(backbone.parameters()).device

    def encode(texts: list[str]) -> Tensor:
        features: Tensor = backbone("text", backbone.tokenize(texts).to(device), None)
        return features

    return each_alone(encode, names, backbone.shape.feature_width)


@torch.inference_mode()
def each_alone(encode: Callable[[list[str]], Tensor], names: Sequence[str], width: int) -> Tensor:
    """Unit features (K, `width`) of names, on the CPU, underscores read as spaces.

    Each name is encoded by itself: its feature does not depend on which others there are.
    """
    features = [torch.zeros(0, width)]
    features += [unit(encode([name.replace("_", " ")])).cpu() for name in names]
    return torch.cat(features)
