"""Training of the Mask-VAE on one worker: epochs over all object masks, one after the other.

Legend: B global batch, H mask side, C latent channels, h latent side.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.config.schema import OptimiserConfig, check_seed
from system.data.shards.schema import Mask
from system.diff_prompt.mask_vae.mask_vae_network import (
    MaskVaeConfig,
    build_mask_vae,
    mask_vae_loss,
)
from system.diff_prompt.mask_vae.object_pixels import object_pixels
from system.diff_prompt.settings_digest import LATER
from system.engine.encoding import dealt_blocks, in_order
from system.engine.model_stage import Show, show_nothing
from system.engine.optimisation import build_optimiser
from system.engine.training import ModelTraining, Progress, epoch_order
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, DataError
from system.methods.parts import np_seed, sample_noise

# Branches of the seed.
_WEIGHTS, _ORDER, _NOISE = 1, 2, 3
BLOCK = 64  # masks reconstructed at once
LATENTS_SCALED_BY = 1024  # masks, at most


@dataclass(frozen=True)
class MaskVaeSettings:
    """The stage's settings; learning rate, decay and kl_weight are the released ones."""

    name: str
    vae: MaskVaeConfig
    epochs: int
    batch_size: int = 64
    learning_rate: float = 5e-3
    decay: float = 0.95  # of the learning rate, after each epoch
    kl_weight: float = 0.00037732
    # Of the latents that stage 2 sees. With less signal each step of the diffusion is noisier, and
    # more of them depend on the condition (arXiv 2301.10972).
    latent_std: float = 1.0
    # The most that a step's gradient may have; null: no bound.
    gradient_norm: float | None = field(default=None, metadata=LATER)
    # The folder of a trained one, which stage 2 takes instead of training one.
    path: str | None = field(default=None, metadata=LATER)
    held_out: str = "val"  # the split whose masks are only reconstructed
    seed: int | None = None  # None: the run's; a number: runs of other seeds share the model

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.seed is not None:
            check_seed(self.seed)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay={self.decay} must be above 0 and at most 1")
        if not self.latent_std > 0:
            raise ValueError(f"latent_std={self.latent_std} must be above 0")
        if self.gradient_norm is not None and not self.gradient_norm > 0:
            raise ValueError(f"gradient_norm={self.gradient_norm} must be above 0, or null")
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight={self.kl_weight} must be at least 0")
        if self.held_out == "train":
            raise ValueError("held_out='train' is what the Mask-VAE learns from; take val or test")


def check_batch(settings: MaskVaeSettings, workers: int, masks: int) -> None:
    """Raises ConfigError or DataError when the workers cannot fill an equal share of a batch."""
    if settings.batch_size % max(workers, 1):
        raise ConfigError(
            f"stage.batch_size={settings.batch_size} does not divide among cluster.workers="
            f"{workers}; make it a multiple of the workers"
        )
    if masks < settings.batch_size:
        raise DataError(
            f"the train split has {masks} object masks, fewer than the batch of "
            f"{settings.batch_size}; lower stage.batch_size"
        )


class MaskVaeTraining(ModelTraining):
    """The autoencoder, its optimiser, and the epochs."""

    subject = "the Mask-VAE"

    def __init__(
        self,
        settings: MaskVaeSettings,
        masks: Sequence[Mask],
        group: WorkerGroup,
        *,
        seed: int,
        digest: str,
        show: Show = show_nothing,
    ) -> None:
        self.settings = settings
        self.masks = masks
        self.group = group
        self.seed = seed
        self.origin = {"digest": digest}
        self.epochs = settings.epochs
        self.gradient_norm = settings.gradient_norm
        self.vae = build_mask_vae(settings.vae, np_seed(seed, _WEIGHTS)).to(group.device)
        self.parameters = dict(self.vae.named_parameters())
        self.optimiser = build_optimiser(
            OptimiserConfig("adam", settings.learning_rate), self.parameters
        )
        self._show = show
        self.model = _Reconstruction(self.vae, settings.kl_weight)

    @override
    def batches(self, epoch: int, start: int) -> tuple[int, Generator[_Batch, None, None]]:
        size, share = self.settings.batch_size, self.settings.batch_size // self.group.size
        order = epoch_order(len(self.masks), self.seed, _ORDER, epoch)
        steps = len(order) // size

        def batches() -> Generator[_Batch, None, None]:
            for step in range(start, steps):
                first = step * size + self.group.rank * share
                yield _Batch(order[first : first + share], epoch)

        return steps, batches()

    @override
    def set_rate(self, epoch: int, step: int, steps: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * self.settings.decay**epoch

    @override
    def gradients(self, batch: _Batch) -> dict[str, Tensor]:
        shape = self.settings.vae.latent_shape
        # drawn for each mask and not for the batch, so that the share does not matter
        noise = sample_noise(shape, np_seed(self.seed, _NOISE, batch.epoch), batch.masks)
        device = self.group.device
        terms = self.model(self._pixels(batch.masks).to(device), noise.to(device))
        terms[0].backward()
        found = (term.detach() for term in terms)
        return dict(zip(("loss", "mse", "kl"), found, strict=True))

    @override
    def show(self, progress: Progress) -> None:
        self._show("Mask-VAE", progress.done, progress.total, f"loss {progress.loss:.4f}")

    def _pixels(self, chosen: Sequence[int]) -> Tensor:
        return object_pixels(self.settings.vae, (self.masks[i] for i in chosen))

    def latent_scale(self, most: int = LATENTS_SCALED_BY) -> float:
        """What brings the latents of the first training masks to the wanted deviation."""
        chosen = range(min(most, len(self.masks)))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(chosen), BLOCK):
                pixels = self._pixels(chosen[start : start + BLOCK]).to(self.group.device)
                parts.append(self.vae.encode(pixels).latent_dist.mode().cpu())
        return float(self.settings.latent_std / torch.cat(parts).double().std())


class _Batch(NamedTuple):
    masks: list[int]  # this worker's
    epoch: int


class _Reconstruction(nn.Module):
    """What DistributedDataParallel wraps: masks and noise to the loss's terms."""

    def __init__(self, vae: Any, kl_weight: float) -> None:
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, reconstruction error and divergence of masks [b, 1, H, H], noise [b, C, h, h]."""
        latent = self.vae.encode(pixels).latent_dist
        reconstruction = self.vae.decode(latent.mean + latent.std * noise).sample
        loss = mask_vae_loss(
            reconstruction, pixels, latent.mean, latent.logvar, kl_weight=self.kl_weight
        )
        return loss.total, loss.mse, loss.kl


def reconstruct(vae: Any, pixels: Tensor) -> Tensor:
    """Masks [B, 1, H, H] through the latent's mean and back."""
    with torch.inference_mode():
        restored: Tensor = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    return restored


def reconstruction_ious(
    vae: Any, masks: Sequence[Mask], sizes: MaskVaeConfig, group: WorkerGroup
) -> Tensor:
    """IoU (n,) of each mask with its reconstruction, computed by all workers, on every rank."""
    mine = dealt_blocks(group, len(masks), BLOCK)
    parts = [torch.zeros(0)]
    for block in mine:
        pixels = object_pixels(sizes, (masks[i] for i in block)).to(group.device)
        parts.append(sizes.iou(reconstruct(vae, pixels), pixels).float().cpu())
    return in_order(group, torch.cat(parts), [i for block in mine for i in block])
