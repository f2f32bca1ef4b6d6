"""What the trainings of all models share: a state that resumes to the bit, and an end to NaN.

Legend: S micro-batches of a global batch, one or more a worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from system.errors import ConfigError, PromptideError
from system.stages.model_checkpoint import ModelCheckpoint
from system.stages.optimisation import optimiser_tensors, restore_optimiser
from system.storage.adapters import prefixed, under


class DivergedModelError(PromptideError):
    """The loss is no longer a number."""


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
