"""What the epoch loop trains: parameters, their optimiser, and the batches of an epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError
from system.storage.adapters import prefixed


@dataclass(frozen=True)
class Progress:
    """Where a training stands inside an epoch; `loss` is the mean over the epoch so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    steps_per_second: float

    @property
    def done(self) -> int:
        """Steps of all epochs so far."""
        return self.epoch * self.steps + self.step

    @property
    def total(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps


def check_every_on(device: torch.device) -> int:
    """Steps from one look at losses and gradients to the next, unless a training says otherwise.

    A CPU has nothing to wait for. On a GPU a look waits for all steps that are under way, and a
    training that diverges goes on for up to so many steps, none of which is kept.
    """
    return 1 if device.type == "cpu" else 25


class Training(ABC):
    """What one worker trains: parameters, their optimiser, and the batches of an epoch.

    Everything about an epoch depends on its number alone, so that a training can be resumed inside
    one. Every rank runs the same steps.
    """

    #: What is trained, for messages.
    subject: str
    #: What to change when it diverges.
    remedy: str
    epochs: int
    #: Steps between two checkpoints inside an epoch; None: after each epoch only.
    checkpoint_steps: int | None = None
    #: Steps from one look at losses and gradients to the next; None: as `check_every_on` says.
    check_every: int | None = None
    #: The most that a step's gradient may have, over all parameters; None: no bound.
    gradient_norm: float | None = None
    #: A loss term this large is past the point where training comes back.
    largest_loss = math.inf
    #: Whether `gradients` returns the loss terms of this worker's part of the batch only.
    local_terms = False
    #: Tells a checkpoint of this training from those of others.
    origin: Mapping[str, Any]
    group: WorkerGroup
    parameters: Mapping[str, nn.Parameter]
    optimiser: torch.optim.Optimizer

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds beside the optimiser's, to be restored in place."""
        return prefixed("parameter", dict(self.parameters))

    def require_own(self, origin: Mapping[str, Any]) -> None:
        """Called with the origin of another training's checkpoint. Raises ConfigError.

        An override that returns starts from the beginning.
        """
        raise ConfigError(
            "the run's checkpoints were made with other settings or data; give this run "
            "another run_name"
        )

    def begin(self) -> None:
        """Prepare what all epochs share, after the parameters were restored."""
        return

    @abstractmethod
    def batches(self, epoch: int, start: int) -> tuple[int, Generator[Any, None, None]]:
        """The steps of an epoch, and this worker's part of each step's batch from `start` on."""

    def set_rate(self, epoch: int, step: int, steps: int) -> None:
        """Set the learning rate of a step; constant by default."""
        return

    @abstractmethod
    def gradients(self, batch: Any) -> dict[str, Tensor]:
        """Put the global batch's gradient into the parameters; the loss terms () by name.

        The gradient is the same on all ranks. It finds that of the parameters empty. The terms stay
        on the device: a step that reads one has to wait for all of its arithmetic.
        """

    def stepped(self, steps: int) -> None:
        """Follow the optimiser's step, the `steps`-th of the training."""
        return

    def loss(self, terms: Mapping[str, float]) -> float:
        """The loss of its terms."""
        return sum(terms.values())

    @abstractmethod
    def row(
        self, epoch: int, steps: int, terms: Mapping[str, float], steps_per_second: float
    ) -> dict[str, Any]:
        """The log row of an epoch from the means of its loss terms."""

    def images_of(self, batch: Any) -> Sequence[object]:
        """Names of a batch's images, for whoever has to look at them."""
        return ()

    def kept(self, state: str) -> str:
        """What a user keeps when the training diverges: `state` of it, and more."""
        return state

    def show(self, progress: Progress) -> None:
        """Show where the training stands; called on rank 0, now and then."""
        return


class ModelTraining(Training):
    """The training of a model: a loss of named parts, computed by a module that all ranks share."""

    remedy = "Lower stage.learning_rate"
    local_terms = True
    #: Called with a batch; its gradients are averaged between the workers.
    model: nn.Module

    @override
    def begin(self) -> None:
        self.model = self.group.distribute(self.model)

    @override
    def loss(self, terms: Mapping[str, float]) -> float:
        return terms["loss"]  # the others are its parts

    @override
    def row(
        self, epoch: int, steps: int, terms: Mapping[str, float], steps_per_second: float
    ) -> dict[str, Any]:
        return {"epoch": epoch, "steps": steps, **terms}


def epoch_order(count: int, seed: int, branch: int, epoch: int) -> list[int]:
    """The order of one epoch: it depends on nothing but these numbers."""
    order: list[int] = np.random.default_rng([seed, branch, epoch]).permutation(count).tolist()
    return order


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
