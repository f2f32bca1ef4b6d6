"""Training of the prompt generator on one worker: DDPM over all expressions, epoch by epoch.

Legend: n expressions, B global batch, b of a micro-batch, C latent channels, h w latent height and
width, P width of the embeddings, T steps of the noise schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from system.config.schema import OptimiserConfig
from system.diff_prompt.prompt_generator.generator_settings import PromptGeneratorSettings
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT, MaskDitConfig
from system.diff_prompt.prompt_generator.noise import DiffusionTraining
from system.diff_prompt.prompt_generator.sampling import np_seed, sample_noise
from system.engine.model_checkpoint import ModelCheckpoint
from system.engine.model_epochs import (
    epoch_order,
    require_finite,
    restore_training,
    trained,
    training_state,
)
from system.engine.model_stage import Show, show_nothing
from system.engine.optimisation import build_optimiser
from system.engine.worker_group import WorkerGroup
from system.storage.adapters import prefixed, under

# Branches of the seed.
_WEIGHTS, _ORDER, _NOISE, _TIME, _DROP = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class GeneratorSamples:
    """What the generator learns from: of each expression its object's latent and its condition."""

    latents: Tensor  # (objects, C, h, w)
    images: Tensor  # (images, P)
    texts: Tensor  # (texts, P)
    places: Tensor  # (n, 3): row of latents, images, texts

    def __len__(self) -> int:
        return len(self.places)

    def take(self, samples: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (b, C, h, w), image and text embeddings (b, P)."""
        latent, image, text = self.places[torch.as_tensor(samples)].unbind(dim=1)
        return self.latents[latent], self.images[image], self.texts[text]


class PromptGeneratorTraining:
    """The transformer, its moving average, its optimiser, and the epochs.

    What a sample meets in an epoch (noise, timestep, whether its condition is dropped) is drawn for
    the sample, and a global batch is cut into micro-batches of one size, so neither depends on the
    number of workers.
    """

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
        self.digest = digest
        self.show = show if group.leads else show_nothing
        self.network = MaskDiT(network, np_seed(seed, _WEIGHTS)).to(group.device)
        self.parameters = trained(self.network)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = build_optimiser(
            OptimiserConfig("adamw", settings.learning_rate, weight_decay=settings.weight_decay),
            self.parameters,
        )
        self.log: list[dict[str, float]] = []
        self._model: nn.Module = _NoisePrediction(
            self.network, DiffusionTraining(settings.schedule), settings.variational_weight
        )

    @property
    def epochs_done(self) -> int:
        """Epochs so far, those before a resume included."""
        return len(self.log)

    @property
    def steps(self) -> int:
        """Steps of an epoch: its full batches."""
        return len(self.samples) // self.settings.batch_size

    def state(self) -> ModelCheckpoint:
        """All that `restore` needs."""
        state = training_state(self.digest, self.log, self.parameters, self.optimiser)
        state.tensors.update(prefixed("average", self.average))
        return state

    def restore(self, state: ModelCheckpoint) -> None:
        """Go on from a checkpoint. Raises ConfigError if it belongs to another training."""
        self.log = restore_training(state, self.digest, self.parameters, self.optimiser)
        saved = under("average", state.tensors)
        for name, average in self.average.items():
            average.copy_(saved[name])

    def distribute(self) -> None:
        """Average gradients between the workers; to be called once, inside Ray Train's loop."""
        import ray.train.torch

        self._model = ray.train.torch.prepare_model(self._model)

    def averaged(self) -> MaskDiT:
        """A network with the moving average of the weights: what samples are drawn with."""
        network = MaskDiT(self.network.config, seed=0).to(self.group.device)
        network.load_state_dict(self.network.state_dict() | self.average)
        return network.eval().requires_grad_(False)

    def epoch(self) -> dict[str, float]:
        """One epoch over the expressions in an order of its own; the log's new row."""
        settings, epoch, count = self.settings, self.epochs_done, len(self.samples)
        order = epoch_order(count, self.seed, _ORDER, epoch)
        times = _drawn(self.seed, _TIME, epoch).integers(0, settings.schedule.steps, count)
        dropped = _drawn(self.seed, _DROP, epoch).random(count) < settings.condition_dropout
        pieces = settings.micro_batches_for(self.group.size)
        size, mine = settings.batch_size // pieces, self.group.share(pieces)
        sums = torch.zeros(3, dtype=torch.float64)
        for step in range(self.steps):
            start = step * settings.batch_size
            parts = [order[start + i * size : start + (i + 1) * size] for i in mine]
            sums += self._step(parts, times, dropped, epoch)
            self._follow(epoch * self.steps + step + 1)
            done, total = epoch * self.steps + step + 1, settings.epochs * self.steps
            self.show("prompt generator", done, total, f"loss {float(sums[0]) / (step + 1):.4f}")
        # each worker's mean is over its own share of the batches
        means = self.group.gather_equal(sums[None].to(self.group.device)).mean(dim=0) / self.steps
        row = dict(zip(("loss", "mse", "variational"), means.tolist(), strict=True))
        require_finite(row["loss"], "prompt generator", epoch)
        self.log.append({"epoch": epoch, "steps": self.steps, **row})
        return self.log[-1]

    def _step(
        self,
        parts: list[list[int]],
        times: np.ndarray[tuple[int], np.dtype[np.int64]],
        dropped: np.ndarray[tuple[int], np.dtype[np.bool_]],
        epoch: int,
    ) -> Tensor:
        """One step on this worker's micro-batches; loss, its two terms [3]."""
        device, found = self.group.device, []
        self.optimiser.zero_grad(set_to_none=True)
        for place, chosen in enumerate(parts):
            latent, image, text = self.samples.take(chosen)
            kept = torch.from_numpy(~dropped[chosen])[:, None]
            noise = sample_noise(latent.shape[1:], np_seed(self.seed, _NOISE, epoch), chosen)
            inputs = (latent, noise, torch.from_numpy(times[chosen]), image * kept, text * kept)
            with self._gathering(last=place + 1 == len(parts)):
                terms = self._model(*(part.to(device) for part in inputs))
                (terms[0] / len(parts)).backward()
            found.append(torch.stack([term.detach() for term in terms]))
        if self.settings.gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.gradient_norm)
        self.optimiser.step()
        return torch.stack(found).double().mean(dim=0).cpu()

    def _gathering(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients go between workers once a step, with the last micro-batch."""
        if last or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        return self._model.no_sync()

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the average towards the weights; a young average moves faster."""
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        for name, average in self.average.items():
            average.lerp_(self.parameters[name], 1 - decay)


class _NoisePrediction(nn.Module):
    """What DistributedDataParallel wraps: a micro-batch to the mean loss and its terms."""

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
