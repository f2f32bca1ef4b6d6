"""The training of one leased task, as the epoch loop runs it."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from system.backbones.dual_encoder import Modality
from system.config.schema import ExperimentConfig
from system.engine.optimisation import build_optimiser, set_rate
from system.engine.training import Progress, Training
from system.engine.worker_group import WorkerGroup
from system.methods.base import TaskBatch
from system.methods.sharing import StreamMethod

#: Similarities times the backbone's scale stay below a few hundred.
EXPLODED = 1e6


class LeasedTask(Protocol):
    """The task that is trained now."""

    @property
    def task(self) -> str:
        """Its name."""
        ...

    @property
    def index(self) -> int:
        """Its place in the stream."""
        ...


class TaskTraining(Training):
    """The epochs of one task on one worker, whatever is learned."""

    remedy = "Start another run_name with a lower stage.optimiser.learning_rate"
    largest_loss = EXPLODED

    def __init__(
        self,
        experiment: ExperimentConfig,
        lease: LeasedTask,
        method: StreamMethod,
        group: WorkerGroup,
        show: Callable[[dict[str, Any]], None],
        fingerprint: str,
    ) -> None:
        self.experiment = experiment
        self.stage = experiment.stage
        self.lease = lease
        self.method = method
        self.group = group
        self.subject = f"task {lease.task!r}"
        self.epochs = self.stage.epochs
        self.checkpoint_steps = self.stage.checkpoint_steps
        every = self.stage.check_every
        self.check_every = every if isinstance(every, int) else None
        self.gradient_norm = self.stage.gradient_norm
        self.origin = {"task": lease.task, "index": lease.index, "backbone": fingerprint}
        self.micro_batches = self.stage.micro_batches_for(group.size)
        self.slots = group.share(self.micro_batches)
        self.parameters = method.task_parameters(lease.index)
        self.optimiser = build_optimiser(self.stage.optimiser, self.parameters)
        self.batch_size = self.stage.batch_size  # of a small task less: see `fit_batch`
        self._show = show

    def fit_batch(self, count: int, *, of: str, least: int = 1) -> int:
        """The global batch of an epoch on `count` samples; see `StageConfig.batch_for`."""
        self.batch_size = self.stage.batch_for(
            self.lease.task, count, self.group.size, of=of, least=least
        )
        return self.batch_size

    @override
    def require_own(self, origin: Mapping[str, Any]) -> None:
        """The checkpoint is of the task before, which was committed since: start anew."""

    @override
    def set_rate(self, epoch: int, step: int, steps: int) -> None:
        set_rate(
            self.optimiser,
            self.stage.optimiser,
            self.stage.schedule,
            step=step,
            epoch=epoch,
            steps=steps,
            epochs=self.epochs,
        )

    @override
    def row(
        self, epoch: int, steps: int, terms: Mapping[str, float], steps_per_second: float
    ) -> dict[str, Any]:
        return {
            "task_index": self.lease.index,
            "task": self.lease.task,
            "epoch": epoch,
            "step": (epoch + 1) * steps,
            "loss": self.loss(terms),
            "images_per_second": steps_per_second * self.batch_size,
            **({} if self.batch_size == self.stage.batch_size else {"batch_size": self.batch_size}),
            **{f"loss_{name}": value for name, value in terms.items()},
        }

    def end(self, features: Mapping[Modality, Tensor]) -> None:
        """Let the method take in the task once it is trained; see `Method.end_task`."""
        self.method.end_task(features, self._task_batches())

    def _task_batches(self) -> Iterator[TaskBatch]:
        """The batches of the epoch after the last one; nothing is read unless they are taken."""
        _, batches = self.batches(self.epochs, 0)
        with closing(batches):
            for batch in batches:
                yield self.task_batch(batch)

    @abstractmethod
    def task_batch(self, batch: Any) -> TaskBatch:
        """One of the batches that `batches` yields, as a method gets it."""

    def collected(self, accumulate: Callable[[], object]) -> dict[str, Tensor]:
        """The gradients that `accumulate` puts into the parameters, which are left without."""
        self.optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            accumulate()
        found = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
            for name, p in self.parameters.items()
        }
        self.optimiser.zero_grad(set_to_none=True)
        return found

    @abstractmethod
    @override
    def images_of(self, batch: Any) -> Sequence[object]: ...

    @override
    def kept(self, state: str) -> str:
        return f"the {self.lease.index} tasks before it and {state}"

    @override
    def show(self, progress: Progress) -> None:
        self._show(
            {
                "epoch": progress.epoch,
                "epochs": progress.epochs,
                "step": progress.step,
                "steps": progress.steps,
                "loss": progress.loss,
                "images_per_second": progress.steps_per_second * self.batch_size,
            }
        )
