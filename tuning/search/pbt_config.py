"""The settings of population based training: the part `pbt` of the `tune` section."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuning.search.space import Space


@dataclass(frozen=True)
class PbtConfig:
    """How a population is renewed while it learns (Jaderberg et al. 2017, arXiv 1711.09846).

    Attributes:
        keys: what is explored on the way: numbers of the space, whose field takes a list, one value
            for each task. All other keys of the space are inherited.
        every: tasks between two comparisons.
        share: of the trials that are compared, so many are replaced, at least one.
        factors: a number of a range is multiplied by one of them; of listed values it becomes a
            neighbouring one.
        resample: how probable it is that a key is drawn anew from the space instead.
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
        """Raises ValueError for a sweep that a population cannot be of."""
        if search not in ("grid", "random"):
            raise ValueError(f"scheduler=pbt has search={search}; it takes search=random or grid")
        if len(seeds) > 1:
            raise ValueError(
                f"scheduler=pbt has seeds={list(seeds)}; it takes one, as each seed's population "
                "would go another way"
            )
        if methods > 1:
            raise ValueError(
                f"scheduler=pbt has {methods} methods; it takes one: name it in tune.only"
            )
        if not self.keys:
            raise ValueError("scheduler=pbt has no pbt.keys; name what is changed on the way")
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
                    f"pbt.keys: {key} changes on the way, and {other.key} is there only when it "
                    "has one value; remove one of them"
                )
