"""What a stream has learned so far: the method's parameters, router, tasks' texts."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from system.backbones.dual_encoder import DualEncoder
from system.config.schema import ExperimentConfig
from system.errors import AdapterMismatchError
from system.grounders.grounder import Grounder
from system.methods.base import DecodesMasks
from system.methods.sharing import StreamMethod
from system.objectives.objective import saved_method
from system.storage.adapters import (
    AdapterFolder,
    AdapterHeader,
    prefixed,
    require_same_backbone,
    under,
)
from system.storage.files import Folder
from system.stream.given_similarity import GivenSimilarity
from system.stream.router import Router
from system.stream.task_similarity import TaskSimilarity

Frozen = TypeVar("Frozen", bound=DualEncoder | Grounder)


def header_of(
    experiment: ExperimentConfig,
    model: DualEncoder | Grounder,
    benchmark_fingerprint: str,
    tasks: tuple[str, ...],
) -> AdapterHeader:
    """The header of what an experiment learns on its frozen model, without a router."""
    return AdapterHeader(
        backbone=model.name,
        backbone_fingerprint=model.fingerprint,
        method=dict(experiment.method),
        benchmark=experiment.benchmark.name,
        benchmark_fingerprint=benchmark_fingerprint,
        protocol=experiment.protocol,
        inputs=asdict(experiment.inputs),
        seed=experiment.seed,
        tasks=tasks,
    )


class LearnedState(Generic[Frozen]):
    """The state that grows by one entry a task, loaded without pickle.

    An entry is a task's parameters (a few KB for prompts), its router centres and what its
    similarity to others is computed from, such as the mean feature of its captions. Of a method
    whose tasks share their parameters the newest entry alone has them.
    """

    def __init__(
        self,
        header: AdapterHeader,
        model: Frozen,
        method: StreamMethod | None = None,
        given: GivenSimilarity | None = None,
    ) -> None:
        """`method` None stands for the header's on this model, without masks."""
        self.header = header
        self.model = model
        self.method = method or saved_method(header, model)
        self.router = (
            Router(
                centers_per_task=header.router["centers"], seed=header.seed, modalities=model.routed
            )
            if self.method.needs_router and header.router
            else None
        )
        self.similarities = TaskSimilarity(
            self.method.similarity_source, given, centred=self.method.similarity_centred
        )

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, model: Frozen, masks: DecodesMasks | None = None
    ) -> "LearnedState[Frozen]":
        """Load adapters for the frozen model they were learned on.

        `masks` are for a method whose prompts come from latents.

        Raises StorageError when the directory holds none or a file is damaged,
        AdapterMismatchError for another model or tensors that do not fit.
        """
        adapters = AdapterFolder(Folder.of(directory))
        header = adapters.header()
        require_same_backbone(header, model.name, model.fingerprint)
        learned = cls(header, model, saved_method(header, model, masks))
        learned.load(adapters, adapters.count())
        return learned

    def save_pretrained(self, directory: str | Path) -> None:
        """Write all tasks so far to a local directory or URI, as `from_pretrained` reads them."""
        adapters = AdapterFolder(Folder.of(directory))
        adapters.save_header(self.header)
        for task in range(self.known_tasks):
            adapters.save_task(task, self.task_state(task))

    @property
    def known_tasks(self) -> int:
        """How many tasks came so far, whether or not the method learned anything at them."""
        return len(self.similarities.entries)

    def similarity_entry(self, images: Tensor, texts: Tensor) -> Tensor:
        """The next task's, by its unprompted features (I, P) and (T, P); see `TaskSimilarity`."""
        tasks = self.header.tasks[: self.known_tasks + 1]
        return self.similarities.entry(self.model.name_features, tasks, images, texts)

    def task_state(self, task: int) -> dict[str, Tensor]:
        """All tensors that a task added, as they are kept from now on."""
        newest = task == self.known_tasks - 1
        state = {self.similarities.entry_name: self.similarities.entries[task]}
        if self._holds_parameters(task, newest):
            state |= prefixed("method", self.method.task_state(task))
        if self.router is not None:
            for modality, centers in self.router.centers_of(task).items():
                state[f"router.{modality}"] = centers
        return state

    def load(self, adapters: AdapterFolder, tasks: int) -> None:
        """Put back the first `tasks` tasks of a folder. Raises what `load_task` does."""
        for task in range(tasks):
            self.load_task(task, adapters.task(task), newest=task == tasks - 1)

    def load_task(self, task: int, state: Mapping[str, Tensor], *, newest: bool) -> None:
        """Put back what `task_state` gave; tasks come in their order, the `newest` one last.

        Raises AdapterMismatchError naming the tensor that does not fit.
        """
        needed = [self.similarities.entry_name]
        if self.router is not None:
            needed += [f"router.{m}" for m in self.router.modalities]
        for name in needed:
            if name not in state:
                raise AdapterMismatchError(f"the adapter of task {task} lacks {name}")
        if self._holds_parameters(task, newest):
            self.method.load_task(task, under("method", state), self.model)
        if self.router is not None:
            centers = under("router", state)
            self.router.restore_task(task, {m: centers[m] for m in self.router.modalities})
        entry = state[self.similarities.entry_name]
        self.similarities.restore(entry, self.header.tasks[: task + 1])

    def _holds_parameters(self, task: int, newest: bool) -> bool:
        """Whether a task's entry has parameters of the method that are still of use."""
        learned = self.method.learns_at(task, len(self.header.tasks))
        return learned and (newest or not self.method.shares_parameters)
