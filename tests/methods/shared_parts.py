"""What the tests of methods with shared prompts have in common."""

import torch
from torch import Tensor

from system.backbones.dual_encoder import Modality, unit
from system.methods.losses import contrastive_loss
from system.methods.sharing import StreamMethod
from tests.methods.method_parts import TEXTS, backbone, images, tokens


def retrieval_loss(method: StreamMethod) -> Tensor:
    """The loss of five pairs under the method's prompts."""
    tasks = torch.zeros(len(TEXTS), dtype=torch.long)
    vision = unit(method.encode(backbone(), "vision", images(), tasks))
    text = unit(method.encode(backbone(), "text", tokens(method), tasks))
    return contrastive_loss(backbone().logit_scale * vision @ text.T)


def prompts_as_they_enter(method: StreamMethod, modality: Modality) -> tuple[Tensor, Tensor]:
    """Features when the prompts replace in every layer, and the method's own features."""
    inputs = images() if modality == "vision" else tokens(method)
    prompt = method.of(0).prompt(modality)
    assert prompt is not None
    prompt = prompt[None]
    replaced = backbone()(modality, inputs, prompt, "replace")
    assert not torch.allclose(replaced, backbone()(modality, inputs, prompt, "add"), atol=1e-4)
    return replaced, method.encode(backbone(), modality, inputs, torch.zeros(5, dtype=torch.long))
