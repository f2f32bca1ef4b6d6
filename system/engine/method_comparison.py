"""What a model stage offers whose runs differ in a method, so that a sweep may compare methods."""

from typing import Protocol, runtime_checkable

from system.engine.model_stage import ModelExperiment


@runtime_checkable
class ComparesMethods(Protocol):
    """A model stage that trains the config's section `method`."""

    @property
    def shown(self) -> dict[str, str]:
        """Keys of metrics.json that a table of methods shows, with their headings."""
        ...

    @property
    def rate_key(self) -> str:
        """The config's key of the learning rate."""
        ...

    def rate_overrides(self, experiment: ModelExperiment) -> tuple[str, ...]:
        """What makes a run on the first task alone one to choose a rate by.

        It is judged on the validation split, and as long as the experiment itself.
        """
        ...

    def tasks(self, experiment: ModelExperiment) -> tuple[str, ...]:
        """The benchmark's tasks, in order."""
        ...

    def learns(self, experiment: ModelExperiment) -> bool:
        """Whether the method trains anything."""
        ...
