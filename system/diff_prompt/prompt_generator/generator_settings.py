"""Settings of stage 2 of Diff-Prompt, the prompt generator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from system.config.schema import BackboneConfig, check_seed
from system.diff_prompt.prompt_generator.mask_dit import MaskDitConfig
from system.diff_prompt.prompt_generator.noise import NoiseSchedule
from system.errors import ConfigError

#: The encoder's own feature of a text, as published, or the mean of the tokens that enter its first
#: layer. A small encoder's feature may have lost where a text says that a thing is.
TextEmbedding = Literal["pooled", "tokens"]
_JUDGING = ("held_out", "evaluated", "sampling_steps", "guidance")


@dataclass(frozen=True)
class NetworkConfig:
    """The transformer's own sizes; those of the latents come from the Mask-VAE."""

    depth: int = 12
    width: int = 512  # and that of the encoder's embeddings
    heads: int = 8
    patch: int = 2
    mlp_ratio: int = 4

    def sizes(self, latent_shape: tuple[int, int, int]) -> MaskDitConfig:
        """The whole of the transformer's sizes. Raises ConfigError if they do not fit."""
        channels, side, _ = latent_shape
        try:
            return MaskDitConfig(
                latent_channels=channels,
                latent_size=side,
                patch=self.patch,
                depth=self.depth,
                width=self.width,
                heads=self.heads,
                mlp_ratio=self.mlp_ratio,
            )
        except ValueError as error:
            raise ConfigError(f"config.stage.network: {error}") from error


@dataclass(frozen=True)
class PromptGeneratorSettings:
    """The stage's settings; the defaults are the published ones."""

    name: str
    encoder: BackboneConfig  # whose embeddings condition the generator
    mask_vae: dict[str, Any]  # the settings of stage 1
    epochs: int
    text_embedding: TextEmbedding = "pooled"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    batch_size: int = 128
    micro_batches: int = 2  # equal parts of the batch, shared by the workers
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    variational_weight: float = 1.0  # of the learned variance's term, beside the noise's error
    gradient_norm: float | None = None  # the most that a step's gradient may have; null: no bound
    ema_decay: float = 0.9999
    condition_dropout: float = 0.0  # share of samples trained without a condition
    held_out: str = "val"  # the split whose masks are sampled
    evaluated: int = 512  # expressions of it, an even subsample
    sampling_steps: int = 25
    guidance: float = 1.0
    seed: int | None = None  # None: the run's; a number: runs of other seeds share the model

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batches", "evaluated", "sampling_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.seed is not None:
            check_seed(self.seed)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if self.gradient_norm is not None and not self.gradient_norm > 0:
            raise ValueError(f"gradient_norm={self.gradient_norm} must be above 0, or null")
        if not self.variational_weight >= 0:
            raise ValueError(f"variational_weight={self.variational_weight} must be at least 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must be at least 0 and below 1")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(
                f"condition_dropout={self.condition_dropout} must be at least 0 and below 1"
            )
        if self.guidance != 1.0 and self.condition_dropout == 0:
            raise ValueError(
                f"guidance={self.guidance} needs a generator trained with condition_dropout above 0"
            )
        if self.schedule.steps % self.sampling_steps:
            raise ValueError(
                f"sampling_steps={self.sampling_steps} must divide schedule.steps="
                f"{self.schedule.steps}"
            )
        if self.held_out == "train":
            raise ValueError("held_out='train' is what the generator learns from; take val or test")

    @property
    def judging(self) -> dict[str, Any]:
        """The settings that say how the trained generator is judged, and do not change it."""
        return {name: getattr(self, name) for name in _JUDGING}

    def micro_batches_for(self, workers: int) -> int:
        """The least multiple of `micro_batches` that the workers can share equally.

        Raises ConfigError if the batch does not divide into them.
        """
        pieces = math.lcm(self.micro_batches, max(workers, 1))
        if self.batch_size % pieces:
            raise ConfigError(
                f"stage.batch_size={self.batch_size} cannot be cut into {pieces} equal "
                f"micro-batches (stage.micro_batches={self.micro_batches}, cluster.workers="
                f"{workers}); choose a multiple of {pieces}"
            )
        return pieces
