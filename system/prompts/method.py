"""The one interface of everything that learns: what it trains for a task and what enters where."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import BackboneShape, DualEncoder, Modality
from system.registry import Registry

#: What tells how alike two tasks are: features of their training captions or images, of their
#: names, or a given matrix.
SimilaritySource = Literal["captions", "names", "images", "matrix"]


@dataclass(frozen=True)
class MethodSetting:
    """What a method is built from, beside its own section of the config."""

    shape: BackboneShape
    seed: int
    protocol: str  # "corrected" or "published"


class Method(nn.Module, ABC):
    """Owns all trainable parameters and never changes the backbone.

    Tasks are numbered in the order of the stream. Only the current task's parameters train. With a
    router, what earlier tasks learned stays as it was; a method without one may share parameters
    between tasks (`task_parameters` then names the same ones for each).
    """

    #: What a task's training reads: nothing (the frozen backbone as it is), the task's own images,
    #: or all tasks' images at once at the end of the stream (declared replay, an upper bound).
    trains_on: ClassVar[Literal["nothing", "task", "all"]] = "task"
    #: Whether the router must name a task for each test sample. Without it, what a task learns
    #: serves all samples from then on, and old results are computed again after each task.
    needs_router: ClassVar[bool] = True
    #: Whether every task trains the same parameters: the newest task's file then replaces what
    #: earlier ones hold of the method, so that the state on disk does not grow with the tasks.
    shares_parameters: ClassVar[bool] = False
    #: Where the `similarity` that `regularisers` gets comes from.
    similarity_source: SimilaritySource = "captions"
    #: Tokens that the text must leave free for a prompt.
    placeholders: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.current = -1

    @abstractmethod
    def add_task(self, backbone: DualEncoder) -> None:
        """Make the parameters of the next task; they are its own from then on."""

    @abstractmethod
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The parameters that task learned, by name: what an adapter file holds."""

    @abstractmethod
    def encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> Tensor:
        """Features (B, P), not normalised, of inputs (B, ...) under the prompts of `tasks` (B,)."""

    def encode_training(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What `encode` gives, and weighted loss terms of each sample, (B,) by name.

        A term's mean over the global batch, and over the modalities that have it, is added to the
        loss.
        """
        return self.encode(backbone, modality, inputs, tasks), {}

    def regularisers(self, similarity: Tensor | None) -> dict[str, Tensor]:
        """Weighted loss terms of the parameters alone; `similarity` (K, K) of the tasks so far."""
        return {}

    def begin_task(self, task: int, backbone: DualEncoder) -> None:
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

    def load_task(self, task: int, state: Mapping[str, Tensor], backbone: DualEncoder) -> None:
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


def prompt_lengths(prompt_length: int, text_prompt_length: int | None) -> dict[Modality, int]:
    """Each tower's prompt length; null for the text's stands for the visual one's."""
    return {"vision": prompt_length, "text": text_prompt_length or prompt_length}


class PromptMethod(Method):
    """A method whose parameters become prompts at the entries of both towers."""

    @abstractmethod
    def prompt(self, modality: Modality, task: int) -> Tensor:
        """The prompt of one task, (L, N, D)."""

    def encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> Tensor:
        """Features under each sample's own prompt: the choice is per sample, never per batch."""
        present, position = torch.unique(tasks, return_inverse=True)
        prompts = torch.stack([self.prompt(modality, int(task)) for task in present])
        if len(present) > 1:
            prompts = prompts[position]  # (B, L, N, D)
        features: Tensor = backbone(modality, inputs, prompts)
        return features


class MethodFactory:
    """How a registered method is built: its config dataclass and its class."""

    def __init__(self, config: type[Any], method: type[Method]) -> None:
        self.config = config
        self.method = method

    def build(self, section: Mapping[str, Any], setting: MethodSetting) -> Method:
        """The method of a config section; unknown keys and wrong values raise ConfigError."""
        from system.parsing import parse_dataclass

        values = {key: value for key, value in section.items() if key != "name"}
        config = parse_dataclass(self.config, values, "method")
        return self.method(config, setting)  # type: ignore[call-arg]


def _on_a_grounder(name: str) -> str | None:
    from system.prompts.grounding_method import GROUNDING_METHODS

    if name not in GROUNDING_METHODS:
        return None
    return (
        f"method={name} learns on a grounder, by expressions and boxes: use experiment=rec; a "
        f"stream of retrieval tasks takes one of {', '.join(METHODS)}"
    )


METHODS: Registry[MethodFactory] = Registry("method", "system.prompts", _on_a_grounder)


def build_method(
    section: Mapping[str, Any], shape: BackboneShape, seed: int, protocol: str
) -> Method:
    """The method that a config section names, for a backbone of that shape.

    Raises ConfigError for an unknown name or key, a wrong value, or sizes that do not fit.
    """
    return METHODS.get(section["name"]).build(section, MethodSetting(shape, seed, protocol))
