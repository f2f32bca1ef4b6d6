"""The Mask-DiT: a diffusion transformer of mask latents, given CLIP's image and text features.

A DiT (arXiv 2212.09748) whose adaLN-Zero condition is, as in Diff-Prompt (arXiv 2504.21423), the
image embedding and the text embedding side by side, the timestep's embedding added to each. Modules
carry the names of the released weights, which load as they are.

Legend: B batch, C latent channels, h w latent height and width, p patch, T = h w / p^2 tokens,
D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from torch import Tensor, nn

FREQUENCIES = 256  # width of the timestep's sinusoids
MAX_PERIOD = 10_000
NORM_EPSILON = 1e-6
INITIAL_STD = 0.02  # of the timestep's layers, as in DiT


@dataclass(frozen=True)
class MaskDitConfig:
    """Sizes of the transformer; the defaults are for CLIP ViT-B/32, on a 4 x 28 x 28 latent."""

    latent_channels: int = 4
    latent_size: int = 28
    patch: int = 2
    depth: int = 12
    width: int = 512  # and that of the image and text embeddings
    heads: int = 8
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.latent_size % self.patch:
            raise ValueError(
                f"latent_size={self.latent_size} does not divide into patches of {self.patch}"
            )
        if self.width % self.heads:
            raise ValueError(f"width={self.width} does not divide into {self.heads} heads")
        if self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4 (position sinusoids)")


class MaskDiT(nn.Module):
    """Predicts the noise in a latent and how to interpolate the variance of a step.

    Its initial output is zero (adaLN-Zero); the weights' draw depends on `seed` alone.
    """

    def __init__(self, config: MaskDitConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.x_embedder = _PatchEmbedding(config)
            self.t_embedder = _TimestepEmbedding(config.width)
            self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
            self.final_layer = _FinalLayer(config)
            self._initialise()
        side = config.latent_size // config.patch
        # A parameter, as in the released weights, but never a trained one.
        self.pos_embed = nn.Parameter(sinusoid_grid(config.width, side)[None], requires_grad=False)

    def forward(self, latent: Tensor, timestep: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """Noise, then variance, along the channels: (B, 2C, h, w).

        Args:
            latent: [B, C, h, w], noised.
            timestep: [B], whole steps of the training schedule.
            image: [B, D] embeddings.
            text: [B, D] embeddings; zeros on both sides stand for no condition.
        """
        tokens = self.x_embedder(latent) + self.pos_embed  # [B, T, D]
        time = self.t_embedder(timestep)  # [B, D]
        condition = torch.cat([image + time, text + time], dim=1)  # [B, 2D]
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self._unpatchify(self.final_layer(tokens, condition))

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        """[B, T, p p 2C] -> [B, 2C, h, w]."""
        size, patch = self.config.latent_size, self.config.patch
        side = size // patch
        grid = tokens.reshape(
            len(tokens), side, side, patch, patch, 2 * self.config.latent_channels
        )
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, size, size)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        projection = self.x_embedder.proj
        nn.init.xavier_uniform_(projection.weight.view(projection.out_channels, -1))
        assert projection.bias is not None
        nn.init.zeros_(projection.bias)
        for index in (0, 2):
            layer = self.t_embedder.mlp[index]
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=INITIAL_STD)
        starts_at_zero = [self.final_layer.linear, *self.final_layer.adaLN_modulation]
        for block in self.blocks:
            assert isinstance(block, _Block)
            starts_at_zero += block.adaLN_modulation
        for part in starts_at_zero:
            for parameter in part.parameters():
                nn.init.zeros_(parameter)


class _PatchEmbedding(nn.Module):
    def __init__(self, config: MaskDitConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.latent_channels, config.width, config.patch, config.patch)

    def forward(self, latent: Tensor) -> Tensor:
        tokens: Tensor = self.proj(latent).flatten(2).transpose(1, 2)
        return tokens


class _TimestepEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: Tensor) -> Tensor:
        embedded: Tensor = self.mlp(timestep_sinusoids(timestep))
        return embedded


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, T, D / heads] each
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens), approximate="tanh"))
        return out


class _Block(nn.Module):
    def __init__(self, config: MaskDitConfig) -> None:
        super().__init__()
        width = config.width
        self.attn = _Attention(width, config.heads)
        self.mlp = _FeedForward(width, config.mlp_ratio * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, 6 * width))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        gate_a: Tensor
        gate_m: Tensor
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            part[:, None] for part in self.adaLN_modulation(condition).chunk(6, dim=1)
        )
        tokens = tokens + gate_a * self.attn(_normed(tokens) * (1 + scale_a) + shift_a)
        tokens = tokens + gate_m * self.mlp(_normed(tokens) * (1 + scale_m) + shift_m)
        return tokens


class _FinalLayer(nn.Module):
    def __init__(self, config: MaskDitConfig) -> None:
        super().__init__()
        width = config.width
        self.linear = nn.Linear(width, config.patch**2 * 2 * config.latent_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, 2 * width))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale = (part[:, None] for part in self.adaLN_modulation(condition).chunk(2, dim=1))
        out: Tensor = self.linear(_normed(tokens) * (1 + scale) + shift)
        return out


def _normed(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPSILON)


def timestep_sinusoids(timestep: Tensor) -> Tensor:
    """Cosines, then sines, of a timestep (B,) at FREQUENCIES / 2 frequencies: (B, FREQUENCIES)."""
    half = FREQUENCIES // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def sinusoid_grid(width: int, side: int) -> Tensor:
    """Fixed position embeddings (side^2, width) of a square grid, row by row.

    The first half of the features tells the column, the second the row; sines come first.
    Source: DiT (arXiv 2212.09748), after MAE.
    """
    quarter = width // 4
    frequencies = MAX_PERIOD ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # [side, width / 4]
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
    column, row = line.repeat(side, 1), line.repeat_interleave(side, dim=0)
    return torch.cat([column, row], dim=1).float()
