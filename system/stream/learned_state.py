"""What a stream has learned so far: the method's parameters, router, tasks' texts."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from system.backbones.dual_encoder import DualEncoder, Modality
from system.config.schema import ExperimentConfig
from system.errors import AdapterMismatchError
from system.grounders.grounder import Grounder
from system.methods.base import DecodesMasks, SimilaritySource
from system.methods.bounded_sizes import bounded_allocation, shapes_of
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
_FEATURES: dict[SimilaritySource, Modality] = {
    "captions": "text",
    "names": "text",
    "images": "vision",
}
# A task's file may have so many bytes for any model, or so many times the frozen model's own.
_LEAST_BYTES, _MOST_TIMES = 256 << 20, 8


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
        if tasks > len(self.header.tasks):
            raise AdapterMismatchError(
                f"{adapters.folder.uri} holds {tasks} tasks' files, and its header names "
                f"{len(self.header.tasks)} tasks; copy the adapters folder again"
            )
        most = max(_LEAST_BYTES, _MOST_TIMES * sum(p.nbytes for p in self.model.parameters()))
        for task in range(tasks):
            self.load_task(task, adapters.task(task, most), newest=task == tasks - 1)

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
        entry = state[self.similarities.entry_name]
        source = self.similarities.source
        width = task + 1 if source == "matrix" else self._width(_FEATURES[source])
        if len(self.header.tasks) == 1 and entry.shape == (1,):
            width = 1  # of joined tasks, which are like no other: see the worker
        _check_numbers(entry, (width,), f"task {task}'s {self.similarities.entry_name}")
        centers = under("router", state)
        if self.router is not None:
            for modality in self.router.modalities:
                found = centers[modality]
                rows = min(max(len(found), 1), self.router.centers_per_task) if found.ndim else 1
                what = f"task {task}'s router.{modality}"
                _check_numbers(found, (rows, self._width(modality)), what)
        if self._holds_parameters(task, newest):
            with bounded_allocation(shapes_of(self.model), "method"):
                self.method.load_task(task, under("method", state), self.model)
        if self.router is not None:
            self.router.restore_task(task, {m: centers[m] for m in self.router.modalities})
        self.similarities.restore(entry, self.header.tasks[: task + 1])

    def _width(self, modality: Modality) -> int:
        """The width of the frozen model's unprompted features."""
        if modality == "vision" and isinstance(self.model, Grounder):
            return self.model.routing_width
        return self.model.shape.feature_width

    def _holds_parameters(self, task: int, newest: bool) -> bool:
        """Whether a task's entry has parameters of the method that are still of use."""
        learned = self.method.learns_at(task, len(self.header.tasks))
        return learned and (newest or not self.method.shares_parameters)


def _check_numbers(found: Tensor, shape: tuple[int, ...], what: str) -> None:
    """Raises AdapterMismatchError unless a saved tensor has that shape and is of finite numbers."""
    if tuple(found.shape) != shape:
        raise AdapterMismatchError(
            f"the adapter of {what} has shape {tuple(found.shape)}, expected {shape}: it comes "
            "from another backbone, or is damaged"
        )
    if not found.is_floating_point() or not bool(found.isfinite().all()):
        raise AdapterMismatchError(f"the adapter of {what} holds what are no finite numbers")
