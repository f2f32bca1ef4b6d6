"""Training of one leased task: epochs over the global batch, a checkpoint after each."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from system.config.schema import ExperimentConfig
from system.engine.optimisation import (
    build_optimiser,
    optimiser_tensors,
    restore_optimiser,
    set_cosine_rate,
)
from system.engine.task_checkpoint import TaskCheckpoint
from system.engine.worker_group import WorkerGroup
from system.errors import PromptideError
from system.methods.stream_method import StreamMethod
from system.storage.adapters import check_state
from system.stream.task_source import Lease

SECONDS_BETWEEN_PROGRESS = 0.5
SHOWN_IMAGES = 8  # of a batch that cannot be learned


#: A loss term this large is past the point where training comes back: similarities times the
#: backbone's scale stay below a few hundred.
EXPLODED = 1e6


class DivergedError(PromptideError):
    """The loss, its gradient or a parameter is no longer a number, or out of all bounds."""


class TaskTraining(ABC):
    """The epochs of one task on one worker, whatever is learned.

    A batch is what `batches` yields; `gradients` leaves the global loss's gradient, the same on all
    ranks, in the parameters.
    """

    def __init__(
        self,
        experiment: ExperimentConfig,
        lease: Lease,
        method: StreamMethod[Any],
        group: WorkerGroup,
        show: Callable[[dict[str, Any]], None],
        fingerprint: str,
    ) -> None:
        self.experiment = experiment
        self.stage = experiment.stage
        self.lease = lease
        self.group = group
        self.show = show
        self.fingerprint = fingerprint
        self.micro_batches = self.stage.micro_batches_for(group.size)
        self.slots = group.share(self.micro_batches)
        self.parameters = method.task_parameters(lease.index)
        self.optimiser = build_optimiser(self.stage.optimiser, self.parameters)
        self.log: list[dict[str, Any]] = []
        self._shown = 0.0

    @abstractmethod
    def begin(self) -> None:
        """Prepare what all epochs share, after the parameters were restored."""

    @abstractmethod
    def batches(self, epoch: int) -> tuple[int, Iterator[Any]]:
        """How many steps an epoch has, and this worker's part of each step's batch."""

    @abstractmethod
    def gradients(self, batch: Any) -> dict[str, float]:
        """Put the global loss's gradient into the parameters; the loss terms by name."""

    @abstractmethod
    def images_of(self, batch: Any) -> Sequence[object]:
        """Names of a batch's images, for who has to look at them."""

    def run(self, earlier: TaskCheckpoint | None) -> None:
        """Train from an earlier checkpoint, if it is of this task, or from the start."""
        done = self._restore(earlier)
        self.begin()
        for epoch in range(done, self.stage.epochs):
            started = time.perf_counter()
            sums, steps = self._epoch(epoch, started)
            rate = steps * self.stage.batch_size / (time.perf_counter() - started)
            terms = {name: total / steps for name, total in sums.items()}
            self.log.append(
                {
                    "task_index": self.lease.index,
                    "task": self.lease.task,
                    "epoch": epoch,
                    "step": (epoch + 1) * steps,
                    "loss": sum(terms.values()),
                    "images_per_second": rate,
                    **{f"loss_{name}": value for name, value in terms.items()},
                }
            )
            self._checkpoint(epoch + 1)

    def _epoch(self, epoch: int, started: float) -> tuple[dict[str, float], int]:
        """Sums of the loss terms over an epoch's steps, and the number of steps."""
        stage = self.stage
        steps, batches = self.batches(epoch)
        sums: dict[str, float] = {}
        for step, batch in enumerate(batches):
            set_cosine_rate(
                self.optimiser, stage.optimiser, epoch * steps + step, stage.epochs * steps
            )
            self.optimiser.zero_grad(set_to_none=True)
            terms = self.gradients(batch)
            self._check(terms, epoch, step, batch)
            self.optimiser.step()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            self._progress(epoch, step, steps, sums, started)
        return sums, steps

    def _check(self, terms: dict[str, float], epoch: int, step: int, batch: Any) -> None:
        """Stop before the step that would spoil the parameters.

        Gradients are the same on all ranks, so all of them stop, and none waits for another.
        """
        images = self.images_of(batch)
        shown = ", ".join(map(str, images[:SHOWN_IMAGES]))
        where = f"step {step}; its images here: {shown}{', ...' * (len(images) > SHOWN_IMAGES)}"
        for name, value in terms.items():
            if not abs(value) < EXPLODED:
                raise self._diverged(f"the {name} loss", value, epoch, where)
        norm = _largest([p.grad for p in self.parameters.values() if p.grad is not None])
        if not math.isfinite(norm):
            raise self._diverged("the gradient", norm, epoch, where)

    def _diverged(self, what: str, value: float, epoch: int, where: str) -> DivergedError:
        kept = f"its state after {epoch} of {self.stage.epochs} epochs" if epoch else "its start"
        return DivergedError(
            f"{what} of task {self.lease.task!r} is {value:g} at epoch {epoch}, {where}. Kept: the "
            f"{self.lease.index} tasks before it and {kept}. Start another run_name with a lower "
            "stage.optimiser.learning_rate"
        )

    def _progress(
        self, epoch: int, step: int, steps: int, sums: dict[str, float], started: float
    ) -> None:
        now = time.perf_counter()
        if not self.group.leads or (
            now - self._shown < SECONDS_BETWEEN_PROGRESS and step + 1 < steps
        ):
            return
        self._shown = now
        self.show(
            {
                "epoch": epoch,
                "epochs": self.stage.epochs,
                "step": step + 1,
                "steps": steps,
                "loss": sum(sums.values()) / (step + 1),
                "images_per_second": (step + 1) * self.stage.batch_size / (now - started),
            }
        )

    def _checkpoint(self, epochs_done: int) -> None:
        import ray.train

        metrics = {"task": self.lease.task, "epochs_done": epochs_done, **self.log[-1]}
        size = _largest(list(self.parameters.values()))
        if not math.isfinite(size):  # the last step overflowed; what was reported before is sound
            raise self._diverged("a parameter", size, epochs_done - 1, "its last step")
        if not self.group.leads:
            ray.train.report(metrics)
            return
        state = TaskCheckpoint(
            task=self.lease.task,
            index=self.lease.index,
            epochs_done=epochs_done,
            backbone_fingerprint=self.fingerprint,
            log=self.log,
            parameters=dict(self.parameters),
            optimiser=optimiser_tensors(self.optimiser),
        )
        with state.as_directory() as directory:
            ray.train.report(
                metrics, checkpoint=ray.train.Checkpoint.from_directory(str(directory))
            )

    def _restore(self, state: TaskCheckpoint | None) -> int:
        """Epochs of this task that are done already, their state put back."""
        if state is None or (state.task, state.index) != (self.lease.task, self.lease.index):
            return 0  # a checkpoint of the task before: that one was committed since
        check_state(state.parameters, {n: tuple(p.shape) for n, p in self.parameters.items()})
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state.parameters[name])
        restore_optimiser(self.optimiser, state.optimiser)
        self.log = list(state.log)
        return state.epochs_done


def _largest(tensors: Sequence[Tensor]) -> float:
    """The largest magnitude in any of the tensors, NaN if there is one."""
    if not tensors:
        return 0.0
    return float(
        torch.stack([t.detach().abs().amax().float() for t in tensors if t.numel()]).amax()
    )
