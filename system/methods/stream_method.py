"""What learns a stream of tasks on a frozen model, whatever kind of model it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

#: What tells how alike two tasks are: features of their training captions or images, of their
#: names, or a given matrix.
SimilaritySource = Literal["captions", "names", "images", "matrix"]
TrainsOn = Literal["nothing", "task", "all"]
Frozen = TypeVar("Frozen", bound=nn.Module)


class StreamMethod(nn.Module, ABC, Generic[Frozen]):
    """Owns all trainable parameters and never changes the frozen model, its backbone.

    Tasks are numbered in the order of the stream. Only the current task's parameters train. With a
    router, what earlier tasks learned stays as it was; a method without one may share parameters
    between tasks (`task_parameters` then names the same ones for each).
    """

    #: What a task's training reads: nothing (the frozen backbone as it is), the task's own images,
    #: or all tasks' images at once at the end of the stream (declared replay, an upper bound).
    trains_on: ClassVar[TrainsOn] = "task"
    #: Whether the router must name a task for each test sample. Without it, what a task learns
    #: serves all samples from then on, and old results are computed again after each task.
    needs_router: ClassVar[bool] = True
    #: Whether every task trains the same parameters: the newest task's file then replaces what
    #: earlier ones hold of the method, so that the state on disk does not grow with the tasks.
    shares_parameters: ClassVar[bool] = False
    #: Where the `similarity` that `regularisers` gets comes from.
    similarity_source: SimilaritySource = "captions"

    def __init__(self) -> None:
        super().__init__()
        self.current = -1

    @abstractmethod
    def add_task(self, backbone: Frozen) -> None:
        """Make the parameters of the next task; they are its own from then on."""

    @abstractmethod
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The parameters that task learned, by name: what an adapter file holds."""

    def regularisers(self, similarity: Tensor | None) -> dict[str, Tensor]:
        """Weighted loss terms of the parameters alone; `similarity` (K, K) of the tasks so far."""
        return {}

    def begin_task(self, task: int, backbone: Frozen) -> None:
        """Make `task` the one that trains: adds what is missing and freezes all the others."""
        while self.known_tasks <= task:
            self.add_task(backbone)
        self.current = task
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for parameter in self.task_parameters(task).values():
            parameter.requires_grad_(True)

    @property
    @abstractmethod
    def known_tasks(self) -> int:
        """How many tasks have parameters."""

    @classmethod
    def learns_at(cls, task: int, tasks: int) -> bool:
        """Whether anything is trained at a task of a stream of `tasks`."""
        return cls.trains_on == "task" or (cls.trains_on == "all" and task == tasks - 1)

    def load_task(self, task: int, state: Mapping[str, Tensor], backbone: Frozen) -> None:
        """Put a saved task's parameters in their place; names and shapes must fit exactly.

        Raises AdapterMismatchError naming the parameter.
        """
        from system.storage.adapters import check_state

        while self.known_tasks <= task:
            self.add_task(backbone)
        parameters = self.task_parameters(task)
        check_state(state, {name: tuple(p.shape) for name, p in parameters.items()})
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def parameters_per_task(self) -> int:
        """Trainable numbers of a task, its own or shared ones; a task must have begun."""
        return sum(p.numel() for p in self.task_parameters(max(self.current, 0)).values())

    def parameters_in_all(self) -> int:
        """Trainable numbers of all tasks so far, shared ones counted once."""
        every = {
            id(p): p.numel()
            for task in range(self.known_tasks)
            for p in self.task_parameters(task).values()
        }
        return sum(every.values())


def task_generator(seed: int, task: int) -> torch.Generator:
    """The generator of one task's initial values."""
    # A prime stride keeps the tasks of neighbouring seeds apart.
    return torch.Generator().manual_seed(seed * 1_000_003 + task)
