"""Objectives of a stream, as the worker's loop sees them: retrieval on a dual encoder, boxes, ...

The loop leases, commits and evaluates; an objective knows the frozen model, how a task is trained
and what its test splits are judged by. One file adds one; `stage.objective` names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from torch import Tensor

from system.backbones.dual_encoder import DualEncoder, Modality
from system.grounders.grounder import Grounder
from system.methods.base import DecodesMasks, MethodSetting
from system.methods.bounded_sizes import bounded_allocation, require_sizes, shapes_of
from system.methods.sharing import StreamMethod, build_method
from system.registry import Registry

if TYPE_CHECKING:
    from system.config.schema import ExperimentConfig, Gallery, InputConfig
    from system.data.shards.manifest import Manifest, SplitHandle, TaskEntry
    from system.engine.model_stage import ModelExperiment, Show
    from system.engine.worker_group import WorkerGroup
    from system.methods.sharing import MethodKind
    from system.objectives.task_training import LeasedTask, TaskTraining
    from system.results.accuracy_matrix import MatrixRow
    from system.storage.adapters import AdapterHeader


class OpenTest(Protocol):
    """Opens a test split of a task, by the task's place in the stream."""

    def __call__(self, task: int, split: str | None = None) -> SplitHandle:
        """The named one of the splits that are judged; None: the leading one."""
        ...


#: What methods learn on.
FrozenModel = DualEncoder | Grounder
#: Unit features (n, P) of names by a frozen model's text tower.
NameFeatures = Callable[[Sequence[str]], Tensor]


class TaskRouter(Protocol):
    """Infers which task a test sample belongs to."""

    def route(self, modality: Modality, features: Tensor) -> Tensor:
        """The task (B,) of each sample, from its unprompted features (B, D)."""
        ...

    def upto(self, tasks: int) -> TaskRouter:
        """The router as it was after so many tasks."""
        ...


class Evaluation(Protocol):
    """The test splits of the stream's tasks, and what was found in them so far."""

    @property
    def tasks(self) -> int:
        """How many tasks' test splits are known."""
        ...

    def zero_shot(self) -> list[MatrixRow]:
        """Matrix rows of the frozen model."""
        ...

    def after_task(self, trained: int, method: Any, router: TaskRouter | None) -> list[MatrixRow]:
        """Matrix rows after a task: recalls under each sample's route, and routing accuracy."""
        ...

    def oracle(self, trained: int, method: Any) -> list[MatrixRow]:
        """Matrix rows with the true task given, once all tasks are learned."""
        ...

    def all_rows(self, method: Any, router: TaskRouter | None) -> Iterator[list[MatrixRow]]:
        """The whole matrix anew, row by row, for tasks that came while others were learned."""
        ...

    def described(self) -> dict[str, Any]:
        """How the metrics were computed, for the run's outcome."""
        ...


@dataclass(frozen=True)
class Worker:
    """Parts that an objective's work is made from: the run, its workers, how splits are opened."""

    experiment: ExperimentConfig
    inputs: InputConfig  # the run's, or those that saved adapters were learned with
    group: WorkerGroup
    open_test: OpenTest
    show: Show
    note: Callable[[str], None] = lambda _: None  # adds a line to the worker's log


class StreamWork(ABC):
    """One worker's frozen model, and what is done with it."""

    worker: Worker
    model: FrozenModel
    evaluation: Evaluation
    #: How a test image is brought to the model, in words.
    transform: str
    #: The file that `examples` belong into.
    examples_file: str

    @abstractmethod
    def build_method(self, header: AdapterHeader) -> StreamMethod:
        """The method of a run on this frozen model, with nothing learned yet."""

    @abstractmethod
    def add_tests(self, count: int, *, later: bool = False) -> None:
        """Take in the test splits of `count` more tasks, and the frozen model's part of them.

        `later`: that part may be computed when it is needed first.
        """

    @abstractmethod
    def evaluation_of(self, open_test: OpenTest, tasks: int, gallery: Gallery) -> Evaluation:
        """An evaluation of splits that are no task's of the stream, the frozen model's part made.

        `gallery` is what a query searches where there is any: all of these splits or its own.
        """

    @abstractmethod
    def training_features(self, handle: SplitHandle) -> tuple[Tensor, Tensor]:
        """Unprompted features of a task's training images (I, P) and texts (T, P)."""

    @abstractmethod
    def training(
        self,
        lease: LeasedTask,
        method: StreamMethod,
        similarity: Tensor,
        open_train: Callable[[], SplitHandle],
        show: Callable[[dict[str, Any]], None],
    ) -> TaskTraining:
        """The training of a leased task."""

    @abstractmethod
    def examples(self, tasks: Sequence[str]) -> pa.Table:
        """Some test samples with what was found before and after, for the report."""

    @abstractmethod
    def ranks(self, tasks: Sequence[str]) -> pa.Table:
        """What each test query found, zero-shot and after the last task.

        The columns are `RANK_COLUMNS` of `system.storage.run_directory` and the objective's own.
        """

    def outcome(self, method: Any, router: TaskRouter | None) -> dict[str, Any]:
        """What else outcome.json gets at the end of the stream; every rank calls this."""
        return {}


class StreamObjective(ABC):
    """One kind of stream; stateless."""

    #: The metrics that a task is judged by, in the order of tables; the first ones lead.
    recalls: tuple[str, ...]

    @abstractmethod
    def method_kind(self, experiment: ExperimentConfig) -> MethodKind:
        """How a stream learns the experiment's method. Raises ConfigError for an unknown one."""

    @abstractmethod
    def check(self, experiment: ExperimentConfig) -> tuple[FrozenModel, StreamMethod]:
        """The frozen model and a fresh method, once all settings were compared with them.

        Raises ConfigError or DataError naming the field or file.
        """

    def before(self, experiment: ExperimentConfig) -> Sequence[ModelExperiment]:
        """The experiments whose models the method builds on: trained once, ahead of the stream.

        Raises ConfigError if the method does not say which.
        """
        return ()

    @abstractmethod
    def check_training(
        self, experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]
    ) -> dict[str, int]:
        """The global batch of each task that is trained, or of all at once: task -> samples.

        Raises DataError naming a task that has too few of them; see `StageConfig.batch_for`.
        """

    def trainable(self, task: TaskEntry) -> bool:
        """Whether a task has anything to train on; one that has not is left out by default."""
        return True

    @abstractmethod
    def check_test(self, experiment: ExperimentConfig, handle: SplitHandle) -> str | None:
        """Why a task's test split has nothing to judge by, None if it has.

        Raises DataError where every task needs something.
        """

    def check_inputs(
        self,
        experiment: ExperimentConfig,
        manifest: Manifest,
        tasks: Sequence[str],
        model: FrozenModel,
    ) -> tuple[str, ...]:
        """Lines on what the frozen model does not read of these tasks' samples.

        Raises DataError naming the task and the sample that it cannot take at all.
        """
        return ()

    @abstractmethod
    def names(self, experiment: ExperimentConfig) -> NameFeatures:
        """Makes features of tasks' names; it loads the frozen model."""

    @abstractmethod
    def work(self, worker: Worker) -> StreamWork:
        """The work of one worker, its model loaded."""


def saved_method(
    header: AdapterHeader, model: FrozenModel, masks: DecodesMasks | None = None
) -> StreamMethod:
    """The method that a header names, on its frozen model, with nothing learned yet.

    `masks` are for a method whose prompts come from latents. Raises as `fitting_method`.
    """
    return fitting_method(header.method, header.seed, model, masks)


def fitting_method(
    section: Mapping[str, Any], seed: int, model: FrozenModel, masks: DecodesMasks | None = None
) -> StreamMethod:
    """The method of a config's section on a frozen model, once its sizes were compared with that.

    Raises ConfigError naming a setting that does not fit.
    """
    shapes = shapes_of(model)
    require_sizes(section, shapes, "method")
    with bounded_allocation(shapes, "method"):
        return build_method(section, MethodSetting(model.shape, seed, masks))


OBJECTIVES: Registry[StreamObjective] = Registry(
    "stream objective", "system.objectives", "OBJECTIVE", file="objective"
)
