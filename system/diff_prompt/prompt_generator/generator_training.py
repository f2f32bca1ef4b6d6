"""Training of the prompt generator on one worker: DDPM over all expressions, epoch by epoch.

Legend: n expressions, B global batch, b of a micro-batch, C latent channels, h w latent height and
width, P width of the embeddings, T steps of the noise schedule.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from system.config.schema import OptimiserConfig
from system.diff_prompt.prompt_generator.generator_settings import PromptGeneratorSettings
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT, MaskDitConfig
from system.diff_prompt.prompt_generator.noise import DiffusionTraining
from system.engine.model_stage import Show, show_nothing
from system.engine.optimisation import build_optimiser
from system.engine.training import ModelTraining, Progress, epoch_order, trained
from system.engine.worker_group import WorkerGroup
from system.methods.parts import np_seed, sample_noise
from system.storage.adapters import prefixed

# Branches of the seed.
_WEIGHTS, _ORDER, _NOISE, _TIME, _DROP, _POSTERIOR = 1, 2, 3, 4, 5, 8


@dataclass(frozen=True)
class GeneratorSamples:
    """What the generator learns from: of each expression its object's latent and its condition."""

    latents: Tensor  # (objects, C, h, w)
    images: Tensor  # (images, P)
    texts: Tensor  # (texts, P)
    places: Tensor  # (n, 3): row of latents, images, texts
    deviations: Tensor | None = None  # (objects, C, h, w): a sample is drawn around the latent

    def __len__(self) -> int:
        return len(self.places)

    def take(self, samples: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (b, C, h, w), image and text embeddings (b, P)."""
        latent, image, text = self.places[torch.as_tensor(samples)].unbind(dim=1)
        return self.latents[latent], self.images[image], self.texts[text]

    def drawn(self, samples: Sequence[int], seed: int) -> Tensor:
        """Samples (b, C, h, w) of the latents' distributions, each drawn by its own number."""
        latents = self.latents[self.places[torch.as_tensor(samples), 0]]
        if self.deviations is None:
            return latents
        noise = sample_noise(latents.shape[1:], seed, list(samples))
        return latents + self.deviations[self.places[torch.as_tensor(samples), 0]] * noise


class PromptGeneratorTraining(ModelTraining):
    """The transformer, its moving average, its optimiser, and the epochs.

    What a sample meets in an epoch (noise, timestep, whether its condition is dropped) is drawn for
    the sample, and a global batch is cut into micro-batches of one size, so neither depends on the
    number of workers.
    """

    subject = "the prompt generator"
    #: What the module of `_loss` returns: the loss, then its parts.
    terms: tuple[str, ...] = ("loss", "mse", "variational")

    def __init__(
        self,
        settings: PromptGeneratorSettings,
        network: MaskDitConfig,
        samples: GeneratorSamples,
        group: WorkerGroup,
        *,
        seed: int,
        digest: str,
        show: Show = show_nothing,
    ) -> None:
        self.settings = settings
        self.samples = samples
        self.group = group
        self.seed = seed
        self.origin = {"digest": digest}
        self.epochs = settings.epochs
        self.gradient_norm = settings.gradient_norm
        self.network = MaskDiT(network, np_seed(seed, _WEIGHTS)).to(group.device)
        self.parameters = trained(self.network)
        averaged = {} if settings.ema_decay is None else self.parameters
        self.average = {name: p.detach().clone() for name, p in averaged.items()}
        self.optimiser = build_optimiser(
            OptimiserConfig("adamw", settings.learning_rate, weight_decay=settings.weight_decay),
            self.parameters,
        )
        self._show = show
        self.model = self._loss()

    @override
    def state(self) -> dict[str, Tensor]:
        return super().state() | prefixed("average", self.average)

    def _loss(self) -> nn.Module:
        """What DistributedDataParallel wraps: a micro-batch to the mean loss and its terms."""
        settings = self.settings
        training = DiffusionTraining(settings.schedule)
        return _NoisePrediction(self.network, training, settings.variational_weight)

    def averaged(self) -> MaskDiT:
        """A network with the moving average of the weights: what samples are drawn with.

        Without an average, with the weights themselves.
        """
        network = MaskDiT(self.network.config, seed=0).to(self.group.device)
        network.load_state_dict(self.network.state_dict() | self.average)
        return network.eval().requires_grad_(False)

    @override
    def batches(self, epoch: int, start: int) -> tuple[int, Generator[_Batch, None, None]]:
        settings, count = self.settings, len(self.samples)
        order = epoch_order(count, self.seed, _ORDER, epoch)
        times = _drawn(self.seed, _TIME, epoch).integers(0, settings.schedule.steps, count)
        dropped = _drawn(self.seed, _DROP, epoch).random(count) < settings.condition_dropout
        pieces = settings.micro_batches_for(self.group.size)
        size, mine = settings.batch_size // pieces, self.group.share(pieces)
        steps = count // settings.batch_size

        def batches() -> Generator[_Batch, None, None]:
            for step in range(start, steps):
                first = step * settings.batch_size
                parts = [order[first + i * size : first + (i + 1) * size] for i in mine]
                yield _Batch(parts, times, dropped, epoch)

        return steps, batches()

    @override
    def gradients(self, batch: _Batch) -> dict[str, Tensor]:
        device, found = self.group.device, []
        for place, chosen in enumerate(batch.parts, start=1):
            _, image, text = self.samples.take(chosen)
            latent = self.samples.drawn(chosen, np_seed(self.seed, _POSTERIOR, batch.epoch))
            kept = torch.from_numpy(~batch.dropped[chosen])[:, None]
            seed = np_seed(self.seed, _NOISE, batch.epoch)
            noise = sample_noise(latent.shape[1:], seed, chosen)
            times = torch.from_numpy(batch.times[chosen])
            inputs = (latent, noise, times, image * kept, text * kept)
            with self._gathering(last=place == len(batch.parts)):
                terms = self.model(*(part.to(device) for part in inputs))
                (terms[0] / len(batch.parts)).backward()
            found.append(torch.stack([term.detach() for term in terms]))
        means = torch.stack(found).double().mean(dim=0).unbind()
        return dict(zip(self.terms, means, strict=True))

    @override
    @torch.no_grad()
    def stepped(self, steps: int) -> None:
        """Move the average towards the weights; a young average moves faster."""
        most = self.settings.ema_decay
        decay = 0.0 if most is None else min(most, (1 + steps) / (10 + steps))
        for name, average in self.average.items():
            average.lerp_(self.parameters[name], 1 - decay)

    @override
    def show(self, progress: Progress) -> None:
        self._show("prompt generator", progress.done, progress.total, f"loss {progress.loss:.4f}")

    def _gathering(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients go between workers once a step, with the last micro-batch."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


class _Batch(NamedTuple):
    parts: list[list[int]]  # this worker's micro-batches
    times: np.ndarray[tuple[int], np.dtype[np.int64]]  # of all samples in the epoch
    dropped: np.ndarray[tuple[int], np.dtype[np.bool_]]  # whose condition
    epoch: int


class _NoisePrediction(nn.Module):
    def __init__(self, network: MaskDiT, training: DiffusionTraining, weight: float) -> None:
        super().__init__()
        self.network = network
        self._training = training
        self._weight = weight  # of the variational term

    def forward(
        self, latent: Tensor, noise: Tensor, time: Tensor, image: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        noised = self._training.add_noise(latent, noise, time)
        output = self.network(noised, time, image, text)
        loss = self._training.loss(output, latent, noise, noised, time)
        mse, variational = loss.mse.mean(), loss.variational.mean()
        return mse + self._weight * variational, mse, variational


def _drawn(seed: int, branch: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, branch, epoch])
