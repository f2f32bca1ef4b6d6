"""What a frozen backbone's text tower makes of names, such as those of tasks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from system.backbones.dual_encoder import DualEncoder, unit


@torch.inference_mode()
def name_features(backbone: DualEncoder, names: Sequence[str]) -> Tensor:
    """Unit text features (K, P) of names, on the CPU, underscores read as spaces.

    Each name is encoded by itself: its feature does not depend on which others there are.
    """
    device = next(backbone.parameters()).device
    features = [torch.zeros(0, backbone.shape.feature_width)]
    for name in names:
        ids = backbone.tokenize([name.replace("_", " ")]).to(device)
        features.append(unit(backbone("text", ids, None)).cpu())
    return torch.cat(features)
