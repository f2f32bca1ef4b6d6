"""The mask regressor: the generator's transformer without noise, trained by the squared error.

It says one latent of the same conditions, learned from the same latents in as many steps: what
prompts gain from it they do not owe to diffusion.

Legend: B batch, C latent channels, h w latent height and width, P width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.diff_prompt.prompt_generator.generator_training import PromptGeneratorTraining
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.engine.training import Progress


def regressed(network: MaskDiT, image: Tensor, text: Tensor) -> Tensor:
    """Latents (B, C, h, w) of embeddings (B, P): a Mask-DiT's noise at step 0 of a latent of zeros.

    So only the position and the conditions reach the transformer. Its variance is not used.
    """
    sizes = network.config
    shape = (len(image), sizes.latent_channels, sizes.latent_size, sizes.latent_size)
    start = torch.zeros(len(image), dtype=torch.long, device=image.device)
    output: Tensor = network(image.new_zeros(shape), start, image, text)
    return output[:, : sizes.latent_channels]


class MaskRegressorTraining(PromptGeneratorTraining):
    """As the generator's training, with the squared error of the latent for its loss.

    Noise, timestep and dropped conditions, which the generator's training draws, are not used.
    """

    subject = "the mask regressor"
    terms = ("loss",)

    @override
    def _loss(self) -> nn.Module:
        return _SquaredError(self.network)

    @override
    def show(self, progress: Progress) -> None:
        self._show("mask regressor", progress.done, progress.total, f"loss {progress.loss:.4f}")


class _SquaredError(nn.Module):
    def __init__(self, network: MaskDiT) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, latent: Tensor, noise: Tensor, time: Tensor, image: Tensor, text: Tensor
    ) -> tuple[Tensor]:
        return ((regressed(self.network, image, text) - latent).square().mean(),)


@dataclass(frozen=True)
class Regressor:
    """Says latents with a trained network; nothing is drawn."""

    network: MaskDiT
    seed: int  # of the judging's random captions
    device: torch.device

    @torch.inference_mode()
    def path(self, image: Tensor, text: Tensor, samples: Sequence[int]) -> Tensor:
        """Latents (B, 1, C, h, w) of embeddings (B, P), on the CPU."""
        found = regressed(self.network, image.to(self.device), text.to(self.device))
        return found[:, None].cpu()
