"""The keys of a sweep as axes of charts and as columns of numbers: a value a setting."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOG_FROM = 8.0  # positive values that lie so many times apart are spread on a log scale


@dataclass(frozen=True)
class Axis:
    """One key: `positions` are numbers, NaN for a setting that has not the key at all.

    `names` are the texts of values that are no numbers; a position is then the place among them.
    """

    name: str
    positions: tuple[float, ...]
    names: tuple[str, ...] = ()

    @property
    def known(self) -> list[float]:
        """The positions that are there."""
        return [position for position in self.positions if not math.isnan(position)]

    @property
    def log(self) -> bool:
        """Whether the values are spread on a log scale."""
        known = self.known
        return not self.names and min(known) > 0 and max(known) / min(known) >= LOG_FROM

    def share(self, position: float) -> float:
        """Where a position lies between the lowest, 0, and the highest, 1; NaN stays."""
        low, high = min(self.known), max(self.known)
        if self.log:
            low, high, position = math.log(low), math.log(high), math.log(position)
        return (position - low) / (high - low) if high > low else 0.5

    def text(self, position: float) -> str:
        """A position as the user wrote it."""
        if self.names:
            return self.names[int(position)]
        return f"{position:g}" if position.is_integer() else f"{position:.4g}"


def axes_of(settings: Sequence[Mapping[str, Any]]) -> list[Axis]:
    """The keys that differ between settings; each maps its keys' names to values."""
    keys = dict.fromkeys(key for values in settings for key in values)
    axes = [_axis(key, settings) for key in keys]
    return [axis for axis in axes if len(set(axis.known)) > 1 or len(axis.known) < len(settings)]


def _axis(key: str, settings: Sequence[Mapping[str, Any]]) -> Axis:
    given = [values[key] for values in settings if key in values]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return Axis(key, tuple(float(values.get(key, math.nan)) for values in settings))
    names = tuple(_text(value) for value in sorted(given, key=_rank))
    names = tuple(dict.fromkeys(names))
    return Axis(
        key,
        tuple(
            float(names.index(_text(values[key]))) if key in values else math.nan
            for values in settings
        ),
        names,
    )


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers first, by size, then words: whatever order the settings came in."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
