"""Prompts of both towers that all tasks share: what one task learns, the next one goes on from.

This is how papers on continual learning run methods that were made for a single task: one set of
parameters, trained on the tasks in turn. No router is needed, and nothing keeps what was learned.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import DualEncoder, Modality
from system.errors import ConfigError
from system.methods.method import MethodSetting
from system.methods.shared_method import SharedMethod


class SharedPrompts(SharedMethod):
    """A method with one prompt for both towers' every sample; deep prompts replace.

    Its parameters are made with it, and trained on by each task.
    """

    @abstractmethod
    def prompts(self) -> dict[Modality, Tensor]:
        """Both towers' prompts (L, N, D), each for as many layers as it enters."""

    def make_parameters(self, backbone: DualEncoder) -> None:
        """Bring them to the backbone's device."""
        self.to(next(backbone.parameters()).device)

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters by name."""
        return dict(self.named_parameters())

    def encode_shared(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """Features under the shared prompt."""
        features: Tensor = backbone(modality, inputs, self.prompts()[modality][None], "replace")
        return features


def depth_within(prompt_depth: int | None, setting: MethodSetting, least: int = 1) -> int:
    """How many layers have prompts: all of the deeper tower for None.

    Raises ConfigError for a depth that no tower has, or below `least`.
    """
    shape = setting.shape
    deepest = max(shape.vision_layers, shape.text_layers)
    depth = deepest if prompt_depth is None else prompt_depth
    if not least <= depth <= deepest:
        raise ConfigError(
            f"method.prompt_depth={depth} does not fit a backbone of {shape.vision_layers} vision "
            f"and {shape.text_layers} text layers; use {least}..{deepest}"
        )
    return depth


def uniform(*shape: int, inputs: int, generator: torch.Generator) -> nn.Parameter:
    """Weights or biases of a linear layer of so many inputs, as PyTorch starts them."""
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter((2 * torch.rand(*shape, generator=generator) - 1) * bound)


def normal(*shape: int, std: float, generator: torch.Generator) -> nn.Parameter:
    """Prompts as they start."""
    return nn.Parameter(torch.randn(*shape, generator=generator) * std)
