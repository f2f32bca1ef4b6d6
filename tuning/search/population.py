"""Who of a population ends, who is forked instead, and with which values: by numbers alone.

Population based training, Jaderberg et al. 2017 (arXiv 1711.09846), with truncation selection and
the perturbation of its section 4: here all trials are compared at the same task, and whoever begins
from another is a new trial with a plain config, its values a list by task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuning.search.pbt_config import PbtConfig
from tuning.search.space import LISTED, Dimension, Space, Values, rounded


@dataclass(frozen=True)
class Fork:
    """A new trial: where it begins, and its values from the start of the stream on."""

    parent: str
    values: Values


@dataclass(frozen=True)
class Verdict:
    """What becomes of a population after so many `tasks`.

    `figures` are what it rests on, `ended` the trials with the worst of them, worst last; `forks`
    take their places. A trial whose figure is None goes on like the others, and is in neither.
    """

    tasks: int
    figures: Mapping[str, float | None]
    ended: tuple[str, ...]
    forks: tuple[Fork, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Verdict":
        """From what `asdict` made of it."""
        forks = tuple(Fork(**fork) for fork in values["forks"])
        return cls(values["tasks"], values["figures"], tuple(values["ended"]), forks)


def rungs(every: int, tasks: int) -> range:
    """After how many tasks a population is compared; after the last there is nothing to replace."""
    return range(every, tasks, every)


def judge(
    figures: Mapping[str, float | None],
    values: Mapping[str, Values],
    space: Space,
    config: PbtConfig,
    seed: int,
    rung: int,
    number: int,
) -> Verdict | None:
    """The verdict on trials after `rung` tasks; None where fewer than two can be compared.

    `figures` are in the order of the trials: of equals the earlier is the better. The new trials
    have the numbers from `number` on. Nothing but the arguments decides: said again, it is the
    same.
    """
    known = {label: figure for label, figure in figures.items() if figure is not None}
    if len(known) < 2:
        return None
    ranked = sorted(known, key=lambda label: -known[label])
    replaced = max(1, int(config.share * len(ranked)))
    forks = []
    for place in range(replaced):
        rng = np.random.default_rng([seed, rung, number + place])
        parent = ranked[int(rng.integers(replaced))]
        forks.append(Fork(parent, branched(values[parent], space, config, rung, rng)))
    return Verdict(rung, dict(figures), tuple(ranked[-replaced:]), tuple(forks))


def branched(
    values: Values, space: Space, config: PbtConfig, rung: int, rng: np.random.Generator
) -> Values:
    """A parent's values, and for each key to explore a list: the parent's, then another one."""
    dimensions = {dimension.key: dimension for dimension in space.dimensions}
    found = dict(values)
    for key in config.keys:
        if key in values:  # a conditional one may not be there
            past = by_task(values[key], rung)
            found[key] = [*past, explored(dimensions[key], past[-1], config, rng)]
    return found


def by_task(value: Any, tasks: int) -> list[Any]:
    """What a number, or a list of them, is at each of the first `tasks` tasks."""
    given: Sequence[Any] = value if isinstance(value, list) else [value]
    return [given[min(task, len(given) - 1)] for task in range(tasks)]


def explored(
    dimension: Dimension, value: float, config: PbtConfig, rng: np.random.Generator
) -> float:
    """Another value: drawn anew, or near the one there was. It may leave the range, not become < 0.

    Of listed values, by size, a neighbour; of a list of one there is no other.
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
