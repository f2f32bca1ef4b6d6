"""From decoded masks to instance-specific prompts, joined with global ones.

Legend: B batch, L prompted layers, N prompt length, D width, H image side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

CHANNELS = (1, 2, 4, 8, 16)  # after each convolution of an adapter as wide as published


@dataclass(frozen=True)
class PromptAdapterConfig:
    """What an adapter has to fit: one modality's layers and width, and the masks it gets."""

    layers: int
    width: int
    prompt_length: int = 8  # half of it specific, half global
    image_size: int = 224
    channels: int = 1  # times the published ones
    specific: bool = True  # without: only the global half is there, and learns
    general: bool = True  # without: only the specific half

    def __post_init__(self) -> None:
        for name in ("layers", "width", "image_size", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.prompt_length < 2 or self.prompt_length % 2:
            raise ValueError(
                f"prompt_length={self.prompt_length} must be even: half of it is global"
            )


class PromptAdapter(nn.Module):
    """Five 3x3 convolutions of stride 2 and one linear layer, and a global prompt a layer.

    The convolutions are shared by the layers of one modality; which mask (which denoising step) a
    layer gets is the caller's choice. Modules carry the names of the released weights.

    Source: Diff-Prompt (arXiv 2504.21423), stage 3.
    """

    def __init__(self, config: PromptAdapterConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        half = config.prompt_length // 2
        side = config.image_size
        modules: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channels = [config.channels * count for count in CHANNELS]
            for inside, outside in pairwise([1, *channels]):  # a mask has one
                modules += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.SiLU()]
                side = math.ceil(side / 2)
            flat = channels[-1] * side**2
            modules += [nn.Flatten(), nn.Linear(flat, half * config.width)]
            self.model = nn.Sequential(*modules) if config.specific else None
            count = config.layers if config.general else 0
            self.global_prompt = nn.ModuleList(
                _GlobalPrompt(half, config.width) for _ in range(count)
            )

    def forward(self, mask: Tensor, layer: int) -> Tensor:
        """The prompt (B, N, D) of one layer from masks (B, 1, H, H) in [-1, 1]."""
        return torch.cat([self.specific(mask), self.general(layer).expand(len(mask), -1, -1)], 1)

    def specific(self, mask: Tensor) -> Tensor:
        """The half (B, N / 2, D) that masks (B, 1, H, H) make."""
        assert self.model is not None, "this adapter was built without a specific half"
        prompt: Tensor = self.model(mask).unflatten(1, (-1, self.config.width))
        return prompt

    def general(self, layer: int) -> Tensor:
        """The layer's global half (1, N / 2, D)."""
        module = self.global_prompt[layer]
        assert isinstance(module, _GlobalPrompt)
        return module.prompt[None]


class _GlobalPrompt(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.empty(length, width).normal_(std=0.02))
