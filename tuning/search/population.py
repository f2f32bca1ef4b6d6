"""Population based training: which trials are replaced, by whose forks, and with which values.

Jaderberg et al. 2017 (arXiv 1711.09846), with truncation selection and the perturbation of its
section 4. Unlike there, all trials are compared after the same task, and a fork is a new trial with
a plain config: each explored key holds a list, one value per task.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tuning.search.space import LISTED, Dimension, Space, Values, rounded


@dataclass(frozen=True)
class PbtConfig:
    """Options of population based training: the section `tune.pbt`.

    Attributes:
        keys: keys of the space that forks change: numeric ones whose field accepts a list, one
            value per task. The other keys are inherited.
        every: tasks between two comparisons.
        share: fraction of the compared trials that is replaced, at least one trial.
        factors: a value from a range is multiplied by one of these; a listed value becomes one of
            its neighbours.
        resample: probability that a key is drawn from the space again instead.
    """

    keys: tuple[str, ...] = ()
    every: int = 1
    share: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.25)
    resample: float = 0.25

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1")
        if not 0 < self.share <= 0.5:
            raise ValueError(
                f"share={self.share} must be above 0 and at most 0.5: as many of the best are kept"
            )
        if not 0 <= self.resample <= 1:
            raise ValueError(f"resample={self.resample} must be from 0 to 1")
        if not self.factors or not all(0 < f < math.inf for f in self.factors):
            raise ValueError(f"factors={list(self.factors)} must be numbers above 0")
        if len(set(self.keys)) < len(self.keys):
            raise ValueError(f"keys={list(self.keys)} must name none twice")

    def check(self, space: Space, search: str, seeds: Sequence[int], methods: int) -> None:
        """Raises ValueError for a sweep that population based training does not support."""
        if search not in ("grid", "random"):
            raise ValueError(f"scheduler=pbt has search={search}; it takes search=random or grid")
        if len(seeds) > 1:
            raise ValueError(
                f"scheduler=pbt has seeds={list(seeds)}; it takes one, as the populations of two "
                "seeds would diverge"
            )
        if methods > 1:
            raise ValueError(
                f"scheduler=pbt has {methods} methods; it takes one: name it in tune.only"
            )
        if not self.keys:
            raise ValueError("scheduler=pbt has no pbt.keys; name the keys that forks change")
        for key in self.keys:
            self._check_key(key, space)

    def _check_key(self, key: str, space: Space) -> None:
        known = {dimension.key: dimension for dimension in space.dimensions}
        if key not in known:
            raise ValueError(f"pbt.keys: {key} is not in space; it has {', '.join(known)}")
        values = known[key].values
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            raise ValueError(
                f"pbt.keys: {key} has values {list(values)}; only numbers can be changed"
            )
        for other in space.dimensions:
            if key in other.when:
                raise ValueError(
                    f"pbt.keys: {key} changes between tasks, but {other.key} depends on its value; "
                    "remove one of them"
                )


@dataclass(frozen=True)
class Fork:
    """A new trial: the trial config it starts from, and its own values from the first task on."""

    parent: str
    values: Values


@dataclass(frozen=True)
class Decision:
    """Decision on a population after `tasks` tasks, as stored in population.json.

    Attributes:
        tasks: number of tasks after which the trials were compared.
        scores: the scores that were compared, by trial config. A trial whose score is None neither
            ends nor is a parent.
        ended: trial configs with the lowest scores, lowest last.
        forks: new trials in their places.
    """

    tasks: int
    scores: Mapping[str, float | None]
    ended: tuple[str, ...]
    forks: tuple[Fork, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Decision":
        """Inverse of `to_dict`."""
        forks = tuple(Fork(**fork) for fork in values["forks"])
        return cls(values["tasks"], values["figures"], tuple(values["ended"]), forks)

    def to_dict(self) -> dict[str, Any]:
        """As stored; scores are under the key `figures`."""
        return {"figures" if k == "scores" else k: value for k, value in asdict(self).items()}


def rungs(every: int, tasks: int) -> range:
    """Numbers of tasks after which a population is compared; never after the last task."""
    return range(every, tasks, every)


def decide(
    scores: Mapping[str, float | None],
    values: Mapping[str, Values],
    space: Space,
    config: PbtConfig,
    seed: int,
    rung: int,
    number: int,
) -> Decision | None:
    """The decision after `rung` tasks; None if fewer than two trials have a score.

    `scores` and `values` are by trial config, in the order of the trials: of equal scores the
    earlier trial ranks higher. Forks are numbered from `number` on. Deterministic: a sweep that was
    killed before the decision was stored comes to the same one.
    """
    known = {label: score for label, score in scores.items() if score is not None}
    if len(known) < 2:
        return None
    ranked = sorted(known, key=lambda label: -known[label])
    replaced = max(1, int(config.share * len(ranked)))
    forks = []
    for place in range(replaced):
        rng = np.random.default_rng([seed, rung, number + place])
        parent = ranked[int(rng.integers(replaced))]
        forks.append(Fork(parent, fork_values(values[parent], space, config, rung, rng)))
    return Decision(rung, dict(scores), tuple(ranked[-replaced:]), tuple(forks))


def fork_values(
    values: Values, space: Space, config: PbtConfig, rung: int, rng: np.random.Generator
) -> Values:
    """The parent's values; each explored key as a list of the parent's `rung` ones and a new one.

    The past stays in the list, so that the fork's config alone reproduces the fork from scratch.
    """
    dimensions = {dimension.key: dimension for dimension in space.dimensions}
    found = dict(values)
    for key in config.keys:
        if key in values:  # a conditional key may be missing
            past = by_task(values[key], rung)
            found[key] = [*past, explore(dimensions[key], past[-1], config, rng)]
    return found


def by_task(value: Any, tasks: int) -> list[Any]:
    """A number, or a list with one number per task, as a list over the first `tasks` tasks.

    The last number of a list holds for all later tasks.
    """
    given: Sequence[Any] = value if isinstance(value, list) else [value]
    return [given[min(task, len(given) - 1)] for task in range(tasks)]


def explore(
    dimension: Dimension, value: float, config: PbtConfig, rng: np.random.Generator
) -> float:
    """A new value: drawn from the space, or close to `value`.

    Close is a neighbour (by size) of a listed value, or a multiple, which may leave the range but
    never becomes negative. The only value of a list stays.
    """
    if rng.random() < config.resample:
        return float(dimension.draw(rng))
    if dimension.kind in LISTED:
        ordered = sorted(dimension.values)
        place = ordered.index(value)
        near = [ordered[n] for n in (place - 1, place + 1) if 0 <= n < len(ordered)] or [value]
        return float(near[int(rng.integers(len(near)))])
    factor = config.factors[int(rng.integers(len(config.factors)))]
    return max(0.0, rounded(value * factor))
