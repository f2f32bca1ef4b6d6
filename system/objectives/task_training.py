"""The training of one leased task, as the epoch loop runs it."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import override

from system.config.schema import ExperimentConfig
from system.engine.epochs import Progress, Training
from system.engine.optimisation import build_optimiser, set_rate
from system.engine.worker_group import WorkerGroup
from system.methods.sharing import StreamMethod
from system.stream.task_source import Lease

#: Similarities times the backbone's scale stay below a few hundred.
EXPLODED = 1e6


class TaskTraining(Training):
    """The epochs of one task on one worker, whatever is learned."""

    remedy = "Start another run_name with a lower stage.optimiser.learning_rate"
    largest_loss = EXPLODED

    def __init__(
        self,
        experiment: ExperimentConfig,
        lease: Lease,
        method: StreamMethod,
        group: WorkerGroup,
        show: Callable[[dict[str, Any]], None],
        fingerprint: str,
    ) -> None:
        self.experiment = experiment
        self.stage = experiment.stage
        self.lease = lease
        self.group = group
        self.subject = f"task {lease.task!r}"
        self.epochs = self.stage.epochs
        self.checkpoint_steps = self.stage.checkpoint_steps
        self.origin = {"task": lease.task, "index": lease.index, "backbone": fingerprint}
        self.micro_batches = self.stage.micro_batches_for(group.size)
        self.slots = group.share(self.micro_batches)
        self.parameters = method.task_parameters(lease.index)
        self.optimiser = build_optimiser(self.stage.optimiser, self.parameters)
        self._show = show

    @override
    def require_own(self, origin: Mapping[str, Any]) -> None:
        """The checkpoint is of the task before, which was committed since: start anew."""

    @override
    def set_rate(self, epoch: int, step: int, steps: int) -> None:
        done = epoch * steps + step
        total = self.epochs * steps
        set_rate(self.optimiser, self.stage.optimiser, self.stage.schedule, done, total)

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
            "images_per_second": steps_per_second * self.stage.batch_size,
            **{f"loss_{name}": value for name, value in terms.items()},
        }

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
                "images_per_second": progress.steps_per_second * self.stage.batch_size,
            }
        )
