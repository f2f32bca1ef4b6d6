"""Search spaces: the config values that a sweep tries, written in YAML by their Hydra keys."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from system.errors import ConfigError

LISTED = ("grid", "choice")  # kinds with a list of values
RANGES = ("uniform", "loguniform", "randint")  # kinds with two ends
KINDS = (*LISTED, *RANGES)
SIGNIFICANT_DIGITS = 4  # of a drawn number, so that tables can show it in full

Values = dict[str, Any]  # Hydra key -> value: one point of the space


@dataclass(frozen=True)
class Dimension:
    """One key of a space.

    Attributes:
        key: Hydra key.
        kind: one of `KINDS`.
        values: all values of a listed kind, or the two ends of a range (inclusive for randint).
        when: condition: the key is only set where all these keys have these values.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    when: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, point: Mapping[str, Any]) -> bool:
        """Whether the condition holds at a point that has all earlier keys."""
        return all(key in point and point[key] == value for key, value in self.when.items())

    def draw(self, rng: np.random.Generator) -> Any:
        """One value at random."""
        if self.kind in LISTED:
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "randint":
            return int(rng.integers(low, high + 1))
        if self.kind == "loguniform":
            return rounded(math.exp(rng.uniform(math.log(low), math.log(high))))
        return rounded(rng.uniform(low, high))


@dataclass(frozen=True)
class Space:
    """Dimensions in the order in which a point is filled in; conditions refer to earlier ones."""

    dimensions: tuple[Dimension, ...]

    def grid(self) -> list[Values]:
        """Every point of a space of listed values; the last key varies fastest."""
        return list(self._complete({}, 0, lambda dimension: dimension.values))

    def draw(self, rng: np.random.Generator) -> list[Values]:
        """One random value of each key, crossed with all values of the keys of kind `grid`."""
        drawn = {d.key: (d.draw(rng),) for d in self.dimensions if d.kind != "grid"}
        return list(self._complete({}, 0, lambda d: drawn.get(d.key, d.values)))

    def sample(self, samples: int, seed: int) -> list[Values]:
        """`samples` different draws; fewer if the space has fewer points."""
        rng = np.random.default_rng(seed)
        found: dict[str, list[Values]] = {}
        for _ in range(100 * samples):
            points = self.draw(rng)
            found.setdefault(json.dumps(points), points)
            if len(found) == samples:
                break
        return [point for points in found.values() for point in points]

    def fill(self, value_of: Callable[[Dimension], Any]) -> Values:
        """The point with the values of `value_of`, which is called for keys that apply only."""
        (point,) = self._complete({}, 0, lambda dimension: (value_of(dimension),))
        return point

    def _complete(
        self, point: Values, start: int, values: Callable[[Dimension], Sequence[Any]]
    ) -> Iterator[Values]:
        if start == len(self.dimensions):
            yield dict(point)
            return
        dimension = self.dimensions[start]
        if not dimension.applies(point):
            yield from self._complete(point, start + 1, values)
            return
        for value in values(dimension):
            yield from self._complete({**point, dimension.key: value}, start + 1, values)


def rounded(value: float) -> float:
    """The number rounded to `SIGNIFICANT_DIGITS`."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def parse_space(section: Mapping[str, Any]) -> Space:
    """The space of a `tune.space` section.

    A key is written as in Hydra, `method.rank: {grid: [1, 2]}`, or nested, `method: {rank: {grid:
    [1, 2]}}`, or both mixed. Raises ConfigError naming the key: no kind or two, an empty list, ends
    in the wrong order, a key given twice, a condition on a key that is not before it.
    """
    dimensions: list[Dimension] = []
    for dimension in _dimensions(section, ""):
        earlier = {d.key: d for d in dimensions}
        if dimension.key in earlier:
            raise ConfigError(f"tune.space.{dimension.key} is given twice; remove one of them")
        for key, value in dimension.when.items():
            if key not in earlier:
                raise ConfigError(
                    f"tune.space.{dimension.key}: when {key}={value!r} looks at a key that is not "
                    "before it in the space; put it first"
                )
            if earlier[key].kind in LISTED and value not in earlier[key].values:
                raise ConfigError(
                    f"tune.space.{dimension.key}: when {key}={value!r} never holds, {key} is one "
                    f"of {list(earlier[key].values)}"
                )
        dimensions.append(dimension)
    return Space(tuple(dimensions))


def _dimensions(section: Mapping[str, Any], prefix: str) -> Iterator[Dimension]:
    kinds = [key for key in section if key in KINDS] if prefix else []
    if len(kinds) > 1:
        raise ConfigError(f"tune.space.{prefix} has {' and '.join(kinds)}; give one of them")
    if kinds:
        yield _dimension(prefix, kinds[0], section[kinds[0]], section.get("when") or {})
    elif "when" in section:
        raise ConfigError(f"tune.space.{prefix} has a condition and none of {', '.join(KINDS)}")
    for key, value in section.items():
        if key in (*kinds, "when"):
            continue
        path = f"{prefix}.{key}" if prefix else str(key)
        if not isinstance(value, Mapping) or not value:
            raise ConfigError(
                f"tune.space.{path}={value!r} must be one of {', '.join(KINDS)} with its values, "
                f"such as tune.space.{path}: {{grid: [1, 2]}}"
            )
        yield from _dimensions(value, path)


def _dimension(key: str, kind: str, values: Any, when: Any) -> Dimension:
    where = f"tune.space.{key}.{kind}"
    if not isinstance(when, Mapping):
        raise ConfigError(f"tune.space.{key}.when={when!r} must be a mapping of keys to values")
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"{where}={values!r} is empty or no list; give its values in [ ]")
    if kind in LISTED:
        texts = [json.dumps(value, sort_keys=True) for value in values]
        if len(set(texts)) < len(texts):
            raise ConfigError(f"{where}={list(values)} names a value twice")
    else:
        _check_range(where, kind, values)
    return Dimension(key, kind, tuple(values), dict(when))


def _check_range(where: str, kind: str, values: Sequence[Any]) -> None:
    number = int if kind == "randint" else int | float
    if len(values) != 2 or not all(
        isinstance(value, number) and not isinstance(value, bool) for value in values
    ):
        expected = "whole numbers" if kind == "randint" else "numbers"
        raise ConfigError(f"{where}={list(values)} must be two {expected}, from and to")
    low, high = values
    if not low < high:
        raise ConfigError(f"{where}={list(values)} is an empty range; the first must be smaller")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"{where}={list(values)} must be above 0")
