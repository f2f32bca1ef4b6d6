"""Methods as a stream learns them: an object each task, one that goes on, or nothing at all.

Legend: B batch, K tasks so far, L layers, N prompt length, D width of a layer, P feature width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import DualEncoder, Modality
from system.errors import AdapterMismatchError, ConfigError
from system.grounders.entries import Added, Entries, Reach
from system.grounders.grounder import Grounder, GroundingBatch, KeptOutputs
from system.methods.base import (
    METHODS,
    Method,
    MethodSetting,
    Objective,
    Sharing,
    TaskBatch,
    TrainsOn,
    build_task_method,
    method_class,
)


@dataclass(frozen=True)
class MethodKind:
    """How a stream learns a method, as far as it is known before any model is loaded."""

    sharing: Sharing
    trains_on: TrainsOn
    grows: bool  # see `Method.grows`

    @property
    def needs_router(self) -> bool:
        """Whether the router must name a task for each test sample.

        Without it, what a task learns serves all samples from then on, and old results are
        computed again after each task.
        """
        return self.sharing == "own"

    @property
    def shares_parameters(self) -> bool:
        """Whether every task trains the same parameters.

        The newest task's file then replaces what earlier ones hold of the method, so that the
        state on disk does not grow with the tasks.
        """
        return self.sharing != "own" and not self.grows

    def learns_at(self, task: int, tasks: int) -> bool:
        """Whether anything is trained at a task of a stream of `tasks`."""
        return self.trains_on == "task" or (self.trains_on == "all" and task == tasks - 1)


def method_kind(section: Mapping[str, Any], objective: Objective) -> MethodKind:
    """How a stream of an objective learns the method that a config section names.

    Raises ConfigError for an unknown name, a method of the other objective, or a `sharing` that
    is unknown or does not fit what the method trains on.
    """
    name = section["name"]
    factory, made = METHODS.get(name), method_class(name, objective)
    sharing: Sharing = section.get("sharing") or factory.sharing
    if sharing not in get_args(Sharing):
        known = ", ".join(get_args(Sharing))
        raise ConfigError(f"method.sharing={sharing!r} is not one of: {known}, or null")
    if sharing in factory.no_sharing:
        raise ConfigError(f"method.sharing={sharing}: method={name} {factory.no_sharing[sharing]}")
    start = section.get("task_start")
    if start is not None and not factory.starts:
        if start != "same":
            raise ConfigError(
                f"method.task_start={start!r} is not same (each task starts from one draw), or null"
            )
        if sharing != "own":
            raise ConfigError(
                f"method.task_start=same goes with method.sharing=own: with {sharing} there is one "
                "start anyway"
            )
    trains_on: TrainsOn = "nothing" if sharing == "frozen" else factory.trains_on
    return MethodKind(sharing, trains_on, made.grows)


class StreamMethod(nn.Module):
    """All trainable parameters of a stream, in the objects of one method.

    Tasks are numbered in the order of the stream. Only the current task's parameters train. With
    sharing "own" the earlier tasks' objects stay as they were, and a router picks one a sample;
    with "shared" whatever the newest task left serves all samples.
    """

    def __init__(self, kind: MethodKind, build: Callable[[int], Method]) -> None:
        """`build` makes the object of a task, its parameters as the seed makes them."""
        super().__init__()
        self.kind = kind
        self.current = -1
        self.known_tasks = 0
        self._build = build
        first = build(0)  # settings that do not fit show here, before any task
        if kind.needs_router and not first.per_sample:
            raise ConfigError(
                "method.sharing=own: this form of the method changes the frozen model for a whole "
                "batch, which holds samples of several tasks; use shared"
            )
        self.similarity_source = first.similarity_source
        self.similarity_centred = first.similarity_centred
        frozen = kind.sharing == "frozen"
        self.placeholders = 0 if frozen else first.placeholders
        self.latent_needs = None if frozen else first.latent_needs
        self.tasks = nn.ModuleList([] if frozen else [first])

    @property
    def trains_on(self) -> TrainsOn:
        """The data that a task's training reads."""
        return self.kind.trains_on

    @property
    def needs_router(self) -> bool:
        """Whether the router must name a task for each test sample."""
        return self.kind.needs_router

    @property
    def shares_parameters(self) -> bool:
        """Whether every task trains the same parameters."""
        return self.kind.shares_parameters

    def learns_at(self, task: int, tasks: int) -> bool:
        """Whether anything is trained at a task of a stream of `tasks`."""
        return self.kind.learns_at(task, tasks)

    def of(self, task: int) -> Method:
        """The object that a task trains: its own, or the one of all."""
        method = self.tasks[task if self.needs_router else 0]
        assert isinstance(method, Method)
        return method

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The parameters that a task trains, by name: none of a frozen method."""
        return self.of(task).task_parameters(self._within(task)) if self.tasks else {}

    def task_state(self, task: int) -> dict[str, Tensor]:
        """The tensors that a task's adapter file holds of the method."""
        return self.of(task).task_state(self._within(task)) if self.tasks else {}

    def _within(self, task: int) -> int:
        """A task's place among those that its object learns."""
        return 0 if self.needs_router else task

    def begin_task(self, task: int, model: nn.Module) -> None:
        """Make `task` the one that trains: adds what is missing and freezes all else."""
        self._add_tasks(task, model)
        self.current = task
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for parameter in self.task_parameters(task).values():
            parameter.requires_grad_(True)

    def end_task(self, features: Mapping[Modality, Tensor], batches: Iterable[TaskBatch]) -> None:
        """Let the current task's object take in that its training is over."""
        if self.tasks:
            self.of(self.current).end_task(features, batches)

    def load_task(self, task: int, state: Mapping[str, Tensor], model: nn.Module) -> None:
        """Put a saved task's state in its place; names and shapes must fit exactly.

        Raises AdapterMismatchError naming the tensor.
        """
        self._add_tasks(task, model)
        own = self.task_state(task)
        check_state(state, {name: tuple(tensor.shape) for name, tensor in own.items()})
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def _add_tasks(self, task: int, model: nn.Module) -> None:
        """Let all tasks up to this one have begun."""
        while self.known_tasks <= task:
            if self.needs_router and self.known_tasks == len(self.tasks):
                self.tasks.append(self._build(self.known_tasks))
            if self.tasks:
                method = self.of(self.known_tasks)
                method.begin_task(self.known_tasks, model)
                method.to(next(model.parameters()).device)
            self.known_tasks += 1

    def encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> Tensor:
        """Features (B, P), not normalised, of inputs (B, ...) of which each has its task, (B,).

        With sharing "own" each sample gets its own task's: the choice is per sample, never per
        batch. Otherwise `tasks` are not looked at.
        """
        if not self.tasks:
            features: Tensor = backbone(modality, inputs, None)
            return features
        if not self.needs_router:
            return self.of(0).encode(backbone, modality, inputs)
        present, place = torch.unique(tasks, return_inverse=True)
        methods = [self.of(int(task)) for task in present]
        if len(methods) == 1:
            return methods[0].encode(backbone, modality, inputs)
        if type(methods[0]).encode is Method.encode:
            found = [method.prompt(modality) for method in methods]
            prompts = [prompt for prompt in found if prompt is not None]
            each = torch.stack(prompts)[place] if prompts else None  # (B, L, N, D)
            features = backbone(modality, inputs, each, methods[0].deep)
            return features
        rows = [(place == at).nonzero()[:, 0] for at in range(len(methods))]
        parts = [
            method.encode(backbone, modality, inputs[chosen])
            for method, chosen in zip(methods, rows, strict=True)
        ]
        return torch.cat(parts)[torch.argsort(torch.cat(rows))]

    def encode_training(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features and loss terms of samples under the current task's parameters."""
        return self.of(self.current).encode_training(backbone, modality, inputs)

    def entries(
        self, grounder: Grounder, batch: GroundingBatch, tasks: Tensor, latents: Tensor | None
    ) -> Entries:
        """Entries for a batch of which each sample has its task, (B,); see `Method.entries`."""
        if not self.tasks:
            return Entries()
        if not self.needs_router:
            return self.of(0).entries(grounder, batch, latents)
        present, place = torch.unique(tasks, return_inverse=True)
        found = [self.of(int(task)).entries(grounder, batch, latents) for task in present]
        return found[0] if len(found) == 1 else chosen_entries(found, place)

    def reach(self, grounder: Grounder) -> Reach:
        """What of a grounder the method leaves as it is, whatever the sample.

        By what enters for a sample that shows nothing. A method of latents, which are not made for
        that, is taken to enter both towers.
        """
        if not self.tasks:
            return Entries().reach
        if self.latent_needs is not None:
            return Reach()
        side, width = grounder.shape.image_size, grounder.shape.image_feature_width
        device = next(grounder.parameters()).device
        nothing = GroundingBatch(
            torch.zeros(1, 3, side, side, device=device),
            grounder.tokenize(["a"]).to(device),
            kept=KeptOutputs(features=torch.zeros(1, width, device=device)),
        )
        with torch.no_grad():
            return self.of(0).entries(grounder, nothing, None).reach

    def regularisers(self, similarity: Tensor | None) -> dict[str, Tensor]:
        """Weighted loss terms of the current task's parameters alone."""
        if not self.tasks:
            return {}
        earlier = [self.of(task) for task in range(self.current if self.needs_router else 0)]
        return self.of(self.current).regularisers(earlier, similarity)

    def attracts(self, similarity: Tensor) -> Tensor | None:
        """Which of the tasks so far the method pulls together, (K, K) bool; None: none at all."""
        return self.of(self.current).attracts(similarity) if self.needs_router else None

    def loss_terms(self, batch: Any, features: Mapping[Modality, Tensor]) -> dict[str, Tensor]:
        """Weighted loss terms of the current task that see both towers."""
        return self.of(self.current).loss_terms(batch, features) if self.tasks else {}

    @property
    def has_loss_terms(self) -> bool:
        """Whether the method has `loss_terms`, which want the towers' features."""
        return bool(self.tasks) and type(self.of(0)).loss_terms is not Method.loss_terms

    def parameters_per_task(self) -> int:
        """Trainable parameters of a task, its own or shared ones; a task must have begun."""
        return sum(p.numel() for p in self.task_parameters(max(self.current, 0)).values())

    def parameters_in_all(self) -> int:
        """Trainable parameters of all tasks so far, shared ones counted once."""
        every = {
            id(p): p.numel()
            for task in range(self.known_tasks)
            for p in self.task_parameters(task).values()
        }
        return sum(every.values())


def build_method(section: Mapping[str, Any], setting: MethodSetting[Any]) -> StreamMethod:
    """The stream's method that a config section names.

    With `task_start` same the parameters of all tasks start from one draw, so that what differs
    between tasks is what they learned; LPI has that as a key of its own.

    Raises ConfigError for an unknown name or key, a wrong value, or sizes that do not fit.
    """
    kind = method_kind(section, setting.objective)
    same = section.get("task_start") == "same"

    def build(task: int) -> Method:
        return build_task_method(section, replace(setting, task=0 if same else task))

    return StreamMethod(kind, build)


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare a saved state with what is expected, strictly.

    Raises AdapterMismatchError naming the first missing, surplus or misshapen tensor.
    """
    for name in shapes:
        if name not in state:
            raise AdapterMismatchError(f"the adapter lacks {name}; was it saved by this method?")
    for name, tensor in state.items():
        if name not in shapes:
            raise AdapterMismatchError(f"the adapter holds {name}, which this method has not")
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise AdapterMismatchError(
                f"the adapter's {name} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(shapes[name])}; set the same rank, prompt length and depth, and the same "
                "backbone as when it was learned"
            )


def chosen_entries(found: Sequence[Entries], place: Tensor) -> Entries:
    """For each sample the entries that `place` (B,) names, an index into `found`.

    All have the same sizes, as one method's of several tasks have. Functions at the towers' ends
    see the whole batch each, so that a sample's result has nothing to do with its neighbours.
    """

    def prompts(layers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [chosen_rows(options, place) for options in zip(*layers, strict=True)]

    added = [entries.added for entries in found if entries.added is not None]
    contexts = [entries.context for entries in found if entries.context is not None]
    levels = [entries.adapt_level for entries in found if entries.adapt_level is not None]
    texts = [entries.adapt_text for entries in found if entries.adapt_text is not None]
    pyramids = [entries.adapt_pyramid for entries in found if entries.adapt_pyramid is not None]
    windows = found[0].windows
    return Entries(
        vision=prompts([entries.vision for entries in found]),
        text=prompts([entries.text for entries in found]),
        context=chosen_rows(contexts, place) if contexts else None,
        adapt_level=(
            (lambda index, level: chosen_rows([adapt(index, level) for adapt in levels], place))
            if levels
            else None
        ),
        adapt_text=(
            (lambda hidden: chosen_rows([adapt(hidden) for adapt in texts], place))
            if texts
            else None
        ),
        adapt_pyramid=(
            (lambda index, level: chosen_rows([adapt(index, level) for adapt in pyramids], place))
            if pyramids
            else None
        ),
        windows=replace(
            windows, after_norm=prompts([entries.windows.after_norm for entries in found])
        ),
        added=_chosen_added(added, place) if added else None,
    )


def _chosen_added(found: Sequence[Added], place: Tensor) -> Added:
    """The same of prompts that are added: each sample takes part in its own task's exchange."""

    def exchange(layer: int, vision: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        options = [added.exchange(layer, vision, text) for added in found]
        return (
            chosen_rows([option[0] for option in options], place),
            chosen_rows([option[1] for option in options], place),
        )

    return Added(
        vision=[chosen_rows(p, place) for p in zip(*(a.vision for a in found), strict=True)],
        text=[chosen_rows(p, place) for p in zip(*(a.text for a in found), strict=True)],
        exchange=exchange,
        exchanging=found[0].exchanging,
    )


def chosen_rows(options: Sequence[Tensor], place: Tensor) -> Tensor:
    """(B, ...) whose row b is that of options[place[b]], each option (1, ...) or (B, ...)."""
    stacked = torch.stack([option.expand(len(place), *option.shape[1:]) for option in options])
    return stacked[place, torch.arange(len(place), device=place.device)]
