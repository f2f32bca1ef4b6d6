"""Settings of stage 2 of Diff-Prompt, the prompt generator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from system.config.schema import BackboneConfig, check_seed
from system.diff_prompt.prompt_generator.mask_dit import MaskDitConfig
from system.diff_prompt.prompt_generator.noise import NoiseSchedule, ScheduleName
from system.diff_prompt.settings_digest import LATER, digested
from system.errors import ConfigError

#: The encoder's own feature of a text, as published, or the mean of the tokens that enter its first
#: layer. A small encoder's feature may have lost where a text says that a thing is.
TextEmbedding = Literal["pooled", "tokens"]
#: What the generator learns to draw: the mode of a mask's latent at the deviation that stage 1
#: sets, or, as released, a sample of the latent's distribution as the encoder gives it. The
#: schedule of noise is made for latents of deviation 1; unscaled ones may have any.
Latents = Literal["mode_scaled", "sample_unscaled"]
#: The length of the embeddings that condition it: sqrt(P), so that an entry is about as large as
#: one of the timestep's, which is added to it; or, as released, that which the encoder gives.
ConditionScale = Literal["sqrt_width", "raw"]
GENERATOR, REGRESSOR = "prompt_generator", "mask_regressor"  # names of stages
#: How the encoder sees an image: squeezed to its square, as masks are, or through its checkpoint's
#: own crop, in which objects at the edge are not seen and others lie where their masks do not.
ConditionResize = Literal["squeeze", "checkpoint"]
_JUDGING = ("held_out", "evaluated", "sampling_steps", "sampling_schedule", "guidance")
_DIFFUSION = ("schedule", "variational_weight", "condition_dropout")  # what a regression has not


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
    """The settings of `prompt_generator`, and of its deterministic control `mask_regressor`.

    Defaults are ours where stage=prompt_generator_released says otherwise.
    """

    name: str
    encoder: BackboneConfig  # whose embeddings condition the generator
    mask_vae: dict[str, Any]  # the settings of stage 1
    epochs: int
    # The folder of a trained one, to be judged or used instead of training one.
    path: str | None = field(default=None, metadata=LATER)
    text_embedding: TextEmbedding = "pooled"
    latents: Latents = field(default="mode_scaled", metadata=LATER)
    condition_scale: ConditionScale = field(default="sqrt_width", metadata=LATER)
    condition_resize: ConditionResize = field(default="checkpoint", metadata=LATER)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    batch_size: int = 128
    micro_batches: int = 2  # equal parts of the batch, shared by the workers
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    variational_weight: float = 1.0  # of the learned variance's term, beside the noise's error
    gradient_norm: float | None = None  # the most that a step's gradient may have; null: no bound
    ema_decay: float | None = 0.9999  # of the weights' moving average; None: the weights themselves
    condition_dropout: float = 0.0  # share of samples trained without a condition
    held_out: str = "val"  # the split whose masks are sampled
    evaluated: int = 512  # expressions of it, an even subsample
    sampling_steps: int = 25
    # Released: it is trained with one schedule and sampled with the other; None: with its own.
    sampling_schedule: ScheduleName | None = field(default=None, metadata=LATER)
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
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must be at least 0 and below 1, or null")
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
        return {name: value for name, value in digested(self).items() if name in _JUDGING}

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide the weights, beside those of encoder, Mask-VAE and seed."""
        apart = {"encoder", "mask_vae", "seed", *_JUDGING}
        if self.regresses:
            apart.update(_DIFFUSION)
        return {name: value for name, value in digested(self).items() if name not in apart}

    @property
    def regresses(self) -> bool:
        """Whether the model says one latent, and draws none."""
        return self.name == REGRESSOR

    @property
    def drawn_with(self) -> NoiseSchedule:
        """The schedule that latents are sampled with."""
        return replace(self.schedule, name=self.sampling_schedule or self.schedule.name)

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
