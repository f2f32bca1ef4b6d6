"""The work of a run in counts: what is trained, and what goes through which part of a model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

#: How samples go through a part: as the frozen model is, with a method's prompts, or with them and
#: back again.
Mode = Literal["plain", "prompted", "training"]


@dataclass(frozen=True)
class Trained:
    """One training: its global batch, and its steps in each of its epochs."""

    subject: str
    batch: int
    steps_per_epoch: int
    epochs: int

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.steps_per_epoch * self.epochs

    @property
    def samples(self) -> int:
        """Samples of all steps: those that fill no batch are dropped."""
        return self.steps * self.batch


@dataclass(frozen=True)
class Passes:
    """Samples that go through a part of a model in one phase: at least, likely, at most."""

    phase: str
    part: str
    mode: Mode
    least: int
    likely: int
    most: int
    kept: bool = False  # in data_path, where the next run with the same data finds them

    @classmethod
    def exactly(
        cls, phase: str, part: str, mode: Mode, count: int, *, kept: bool = False
    ) -> "Passes":
        """As many, neither fewer nor more."""
        return cls(phase, part, mode, count, count, count, kept)


@dataclass(frozen=True)
class Work:
    """All of one run: of a stream of tasks, or of a model's training."""

    run: str
    trained: tuple[Trained, ...]
    passes: tuple[Passes, ...]
    reads: tuple[tuple[str, int, float], ...] = ()  # a split's name, its bytes, how often
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Optimiser steps of all trainings."""
        return sum(one.steps for one in self.trained)

    @property
    def samples(self) -> int:
        """Samples of all steps of all trainings."""
        return sum(one.samples for one in self.trained)

    @property
    def bytes_read(self) -> float:
        """Of the shards, where nothing is cached."""
        return sum(size * times for _, size, times in self.reads)


def without_nothing(passes: Iterable[Passes]) -> tuple[Passes, ...]:
    """Those of at least one sample."""
    return tuple(one for one in passes if one.most)
