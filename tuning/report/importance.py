"""How much each key of a sweep mattered, as far as its trials can tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuning.report.parameter_axes import Axis

LEAST_SETTINGS = 8  # fewer say nothing about several keys at once
TREES, REPEATS = 300, 30


@dataclass(frozen=True)
class Importance:
    """`drop` by the axes' order: by how much R² falls when a key's values are shuffled.

    `explained` is the forest's R² on settings that a tree did not see: near or below 0 it found no
    rule that holds, and the drops are chance.
    """

    names: tuple[str, ...]
    drop: tuple[float, ...]
    spread: tuple[float, ...]  # standard deviation over shuffles
    explained: float
    settings: int


def importance(axes: Sequence[Axis], figures: Sequence[float]) -> Importance:
    """Permutation importance (Breiman 2001, "Random forests", section 10) in a random forest.

    The axes' positions are the columns; a key that a setting has not is a missing value of its own
    kind. There are at least LEAST_SETTINGS figures. Seeded: the same sweep gives the same figures.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    columns = np.array([axis.positions for axis in axes]).T  # (settings, keys)
    target = np.array(figures)
    forest = RandomForestRegressor(n_estimators=TREES, oob_score=True, random_state=0)
    forest.fit(columns, target)
    found = permutation_importance(forest, columns, target, n_repeats=REPEATS, random_state=0)
    return Importance(
        tuple(axis.name for axis in axes),
        tuple(float(value) for value in found.importances_mean),
        tuple(float(value) for value in found.importances_std),
        float(forest.oob_score_),
        len(figures),
    )
