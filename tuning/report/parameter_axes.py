"""The keys of a search space as axes of charts: one position per trial config."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOG_FROM = 8.0  # ratio of largest to smallest positive value from which on the scale is log


@dataclass(frozen=True)
class ParameterAxis:
    """Axis of one key.

    Attributes:
        name: the key.
        positions: one number per trial config; NaN if it does not have the key.
        names: texts of values that are not numbers; a position is then an index into them.
    """

    name: str
    positions: tuple[float, ...]
    names: tuple[str, ...] = ()

    @property
    def known(self) -> list[float]:
        """The positions that are not NaN."""
        return [position for position in self.positions if not math.isnan(position)]

    @property
    def log(self) -> bool:
        """Whether the scale is logarithmic."""
        known = self.known
        return not self.names and min(known) > 0 and max(known) / min(known) >= LOG_FROM

    def share(self, position: float) -> float:
        """A position scaled to [0, 1] between the lowest and the highest; NaN stays."""
        low, high = min(self.known), max(self.known)
        if self.log:
            low, high, position = math.log(low), math.log(high), math.log(position)
        return (position - low) / (high - low) if high > low else 0.5

    def text(self, position: float) -> str:
        """The value at a position, as the user wrote it."""
        if self.names:
            return self.names[int(position)]
        return f"{position:g}" if position.is_integer() else f"{position:.4g}"


def parameter_axes(configs: Sequence[Mapping[str, Any]]) -> list[ParameterAxis]:
    """An axis for each key that differs between trial configs, given as values by key."""
    keys = dict.fromkeys(key for values in configs for key in values)
    axes = [_axis(key, configs) for key in keys]
    return [axis for axis in axes if len(set(axis.known)) > 1 or len(axis.known) < len(configs)]


def _axis(key: str, configs: Sequence[Mapping[str, Any]]) -> ParameterAxis:
    given = [values[key] for values in configs if key in values]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return ParameterAxis(key, tuple(float(values.get(key, math.nan)) for values in configs))
    names = tuple(_text(value) for value in sorted(given, key=_rank))
    names = tuple(dict.fromkeys(names))
    return ParameterAxis(
        key,
        tuple(
            float(names.index(_text(values[key]))) if key in values else math.nan
            for values in configs
        ),
        names,
    )


def _rank(value: Any) -> tuple[bool, float, str]:
    """Sort key: numbers by size, then words, independent of the order of the trial configs."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
