"""What the trainings of all models share: a state that resumes to the bit, and an end to NaN.

Legend: S micro-batches of a global batch, one or more a worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from system.engine.model_checkpoint import ModelCheckpoint
from system.engine.optimisation import optimiser_tensors, restore_optimiser
from system.engine.rank_log import RankLog
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, PromptideError
from system.storage.adapters import prefixed, under
from system.storage.files import Folder


class DivergedModelError(PromptideError):
    """The loss is no longer a number."""


class EpochTraining(Protocol):
    """A training that a checkpoint after each epoch is enough for."""

    @property
    def epochs_done(self) -> int:
        """Epochs so far, those before a resume included."""
        ...

    def state(self) -> ModelCheckpoint:
        """All that `restore` needs."""
        ...

    def restore(self, state: ModelCheckpoint) -> None:
        """Go on from a checkpoint."""
        ...

    def distribute(self) -> None:
        """Average gradients between the workers."""
        ...

    def epoch(self) -> dict[str, float]:
        """Train one epoch; the log's new row."""
        ...


def train_epochs(
    training: EpochTraining, epochs: int, folder: Folder, group: WorkerGroup, log: RankLog
) -> None:
    """Train to `epochs`, from the run directory's last checkpoint; inside Ray Train's loop."""
    import ray.train

    state = ModelCheckpoint.read(folder)
    if state is not None:
        training.restore(state)
        log.add(f"going on after {training.epochs_done} epochs")
    training.distribute()
    while training.epochs_done < epochs:
        row = training.epoch()
        log.add(f"{row}")
        if group.leads:
            training.state().write(folder)
        ray.train.report(row)


def training_state(
    digest: str,
    log: list[dict[str, float]],
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> ModelCheckpoint:
    """All that `restore_training` needs."""
    tensors = prefixed("parameter", parameters)
    tensors |= prefixed("optimiser", optimiser_tensors(optimiser))
    return ModelCheckpoint(digest, list(log), tensors)


def restore_training(
    state: ModelCheckpoint,
    digest: str,
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> list[dict[str, float]]:
    """Put parameters and moments back; the log so far.

    Raises ConfigError if the checkpoint belongs to another training.
    """
    if state.digest != digest:
        raise ConfigError(
            "the run's checkpoints were made with other settings or data; give this run "
            "another run_name"
        )
    saved = under("parameter", state.tensors)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    restore_optimiser(optimiser, under("optimiser", state.tensors))
    return list(state.log)


def epoch_order(count: int, seed: int, branch: int, epoch: int) -> list[int]:
    """The order of one epoch: it depends on nothing but these numbers."""
    order: list[int] = np.random.default_rng([seed, branch, epoch]).permutation(count).tolist()
    return order


def require_finite(loss: float, model: str, epoch: int) -> None:
    """Raises DivergedModelError where a loss is no number: a next epoch would not mend it."""
    if not math.isfinite(loss):
        raise DivergedModelError(
            f"the loss of the {model} is {loss} in epoch {epoch}; lower stage.learning_rate"
        )


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
