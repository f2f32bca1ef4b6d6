"""What a stream has learned so far: the method's parameters, the router, the tasks' texts."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, DualEncoder
from system.errors import AdapterMismatchError
from system.evaluation.router import Router
from system.prompts.method import build_method
from system.storage.adapters import (
    AdapterFolder,
    AdapterHeader,
    prefixed,
    require_same_backbone,
    under,
)
from system.storage.files import Folder


class LearnedStream:
    """The state that grows by one entry a task, loaded without pickle.

    An entry is a task's parameters (a few KB for prompts), its router centres and the mean feature
    of its captions. Of a method whose tasks share their parameters the newest entry alone has them.
    """

    def __init__(self, header: AdapterHeader, backbone: DualEncoder) -> None:
        self.header = header
        self.backbone = backbone
        self.method = build_method(header.method, backbone.shape, header.seed, header.protocol)
        self.router = (
            Router(centers_per_task=header.router["centers"], seed=header.seed)
            if self.method.needs_router
            else None
        )
        self.task_texts: list[Tensor] = []  # (P,) each: the mean text feature of a task, unit norm

    def add_task_texts(self, texts: Tensor) -> None:
        """Take in a new task by the unprompted features (T, P) of its captions."""
        self.task_texts.append(torch.nn.functional.normalize(texts.mean(0), dim=0))

    def similarity(self) -> Tensor:
        """Cosine similarity (K, K) of the tasks so far, by the mean features of their captions."""
        stacked = torch.stack(self.task_texts)
        return stacked @ stacked.T

    def task_state(self, task: int) -> dict[str, Tensor]:
        """All tensors that a task added, as they are kept from now on."""
        newest = task == len(self.task_texts) - 1
        state = {"task_text": self.task_texts[task]}
        if self._holds_parameters(task, newest):
            state |= prefixed("method", self.method.task_parameters(task))
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
        needed = ["task_text"]
        if self.router is not None:
            needed += [f"router.{m}" for m in MODALITIES]
        for name in needed:
            if name not in state:
                raise AdapterMismatchError(f"the adapter of task {task} lacks {name}")
        if self._holds_parameters(task, newest):
            self.method.load_task(task, under("method", state), self.backbone)
        if self.router is not None:
            centers = under("router", state)
            self.router.restore_task(task, {m: centers[m] for m in MODALITIES})
        self.task_texts.append(state["task_text"])

    def _holds_parameters(self, task: int, newest: bool) -> bool:
        """Whether a task's entry has parameters of the method that are still of use."""
        learned = self.method.learns_at(task, len(self.header.tasks))
        return learned and (newest or not self.method.shares_parameters)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write all tasks so far to a local directory or URI, as `from_pretrained` reads them."""
        adapters = AdapterFolder(Folder.of(directory))
        adapters.save_header(self.header)
        for task in range(len(self.task_texts)):
            adapters.save_task(task, self.task_state(task))

    @classmethod
    def from_pretrained(cls, directory: str | Path, backbone: DualEncoder) -> "LearnedStream":
        """Load adapters for the backbone they were learned on.

        Raises StorageError when the directory holds none or a file is damaged,
        AdapterMismatchError for another backbone or tensors that do not fit.
        """
        adapters = AdapterFolder(Folder.of(directory))
        header = adapters.header()
        require_same_backbone(header, backbone.name, backbone.fingerprint)
        learned = cls(header, backbone)
        learned.load(adapters, adapters.count())
        return learned
