"""Methods on a grounder as methods of a stream: a set of parameters each task, or one for all.

Any grounding method learns a stream by what it says under `in_stream`; none needs code of its own.

Legend: B batch, N prompt length, D width of a layer.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from system.grounders.grounder import Entries, Grounder, Tokens
from system.methods.grounding_method import (
    GROUNDING_METHODS,
    GroundingMethod,
    GroundingSetting,
    InStream,
)
from system.methods.stream_method import StreamMethod, TrainsOn

#: Makes the method of a task, its parameters as the seed makes them.
BuildTask = Callable[[int], GroundingMethod]


class GroundingStream(StreamMethod[Grounder]):
    """A stream's method whose entries are those of a grounder."""

    def __init__(self, build: BuildTask) -> None:
        super().__init__()
        self._build = build
        first = build(0)  # settings that do not fit show here, before any task
        self.similarity_source = first.similarity_source
        self._first = (first,)  # no module of this one: it never learns

    @property
    def first(self) -> GroundingMethod:
        """A method as each task's starts, whatever was learned: what it needs is what all need."""
        return self._first[0]

    @abstractmethod
    def entries(
        self, grounder: Grounder, tokens: Tokens, tasks: Tensor, latents: Tensor | None
    ) -> Entries:
        """What enters for expressions of which each has its task, (B,).

        `latents` as in `GroundingMethod.entries`.
        """


class MethodATask(GroundingStream):
    """Each task learns a method of its own, which stays as it was; the router picks one a sample.

    Earlier tasks' methods are frozen.
    """

    def __init__(self, build: BuildTask) -> None:
        super().__init__(build)
        self.tasks = nn.ModuleList()

    @property
    def known_tasks(self) -> int:
        """How many tasks have a method."""
        return len(self.tasks)

    def add_task(self, backbone: Grounder) -> None:
        """A fresh method on the grounder's device."""
        device = next(backbone.parameters()).device
        self.tasks.append(self._build(len(self.tasks)).to(device))

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """All parameters of the task's method."""
        return dict(self.tasks[task].named_parameters())

    def regularisers(self, similarity: Tensor | None) -> dict[str, Tensor]:
        """Those of the current task's method."""
        earlier = [self._of(task) for task in range(self.current)]
        return self._of(self.current).regularisers(earlier, similarity)

    def entries(
        self, grounder: Grounder, tokens: Tokens, tasks: Tensor, latents: Tensor | None
    ) -> Entries:
        """Each sample's own task's entries: the choice is per sample, never per batch."""
        present, place = torch.unique(tasks, return_inverse=True)
        found = [self._of(int(task)).entries(grounder, tokens, latents) for task in present]
        return found[0] if len(found) == 1 else chosen_entries(found, place)

    def _of(self, task: int) -> GroundingMethod:
        method = self.tasks[task]
        assert isinstance(method, GroundingMethod)
        return method


class MethodForAll(GroundingStream):
    """One method that goes on from task to task: a sequential baseline, without a router.

    Whatever the newest task left serves all samples.
    """

    needs_router = False
    shares_parameters = True

    def __init__(self, build: BuildTask) -> None:
        super().__init__(build)
        self.method = build(0)
        self._known = 0

    @property
    def known_tasks(self) -> int:
        """How many tasks have begun."""
        return self._known

    def add_task(self, backbone: Grounder) -> None:
        """Nothing new; the method is brought to the grounder's device."""
        self.method.to(next(backbone.parameters()).device)
        self._known += 1

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The shared parameters, whatever the task."""
        return dict(self.method.named_parameters())

    def regularisers(self, similarity: Tensor | None) -> dict[str, Tensor]:
        """Those of the one method, which knows no earlier one."""
        return self.method.regularisers()

    def entries(
        self, grounder: Grounder, tokens: Tokens, tasks: Tensor, latents: Tensor | None
    ) -> Entries:
        """What the method gives, whatever the tasks."""
        return self.method.entries(grounder, tokens, latents)


class NothingLearned(MethodForAll):
    """The frozen grounder as it is."""

    trains_on: ClassVar[TrainsOn] = "nothing"


KINDS: Mapping[InStream, type[GroundingStream]] = {
    "own": MethodATask,
    "shared": MethodForAll,
    "nothing": NothingLearned,
}


def grounding_stream_kind(name: str) -> type[GroundingStream]:
    """How a stream learns a method. Raises ConfigError for an unknown name."""
    return KINDS[GROUNDING_METHODS.get(name).method.in_stream]


def build_grounding_stream(
    section: Mapping[str, Any], setting: GroundingSetting
) -> GroundingStream:
    """The stream's method that a config section names.

    Raises ConfigError for an unknown name or key, a wrong value, or sizes that do not fit.
    """
    factory = GROUNDING_METHODS.get(section["name"])
    return grounding_stream_kind(section["name"])(
        lambda task: factory.build(section, replace(setting, task=task))
    )


def chosen_entries(found: Sequence[Entries], place: Tensor) -> Entries:
    """For each sample the entries that `place` (B,) names, an index into `found`.

    All have the same sizes, as one method's of several tasks have. Functions at the towers' ends
    see the whole batch each, so that a sample's result has nothing to do with its neighbours.
    """

    def prompts(layers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [chosen_rows(options, place) for options in zip(*layers, strict=True)]

    contexts = [entries.context for entries in found if entries.context is not None]
    levels = [entries.adapt_level for entries in found if entries.adapt_level is not None]
    texts = [entries.adapt_text for entries in found if entries.adapt_text is not None]
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
    )


def chosen_rows(options: Sequence[Tensor], place: Tensor) -> Tensor:
    """(B, ...) whose row b is that of options[place[b]], each option (1, ...) or (B, ...)."""
    stacked = torch.stack([option.expand(len(place), *option.shape[1:]) for option in options])
    return stacked[place, torch.arange(len(place), device=place.device)]
