"""Importance of each key for the score: random forest, permutation, and the chart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from plotly import graph_objects as go

from system.escapes import label
from system.report.charts.chart_style import BLUE, Chart, base_layout
from tuning.report.parameter_axes import ParameterAxis

LEAST_CONFIGS = 8  # with fewer, several keys cannot be told apart
FEW = 30  # trial configs below which the caption calls the order a hint
TREES, REPEATS = 300, 30


@dataclass(frozen=True)
class Importance:
    """Permutation importance of each key.

    Attributes:
        names: the keys.
        drop: by how much R² falls when a key's values are shuffled, mean over shuffles.
        std: its standard deviation over shuffles.
        explained: out-of-bag R² of the forest; at 0 or below it found no rule that generalises, and
            the drops are chance.
        configs: number of trial configs.
    """

    names: tuple[str, ...]
    drop: tuple[float, ...]
    std: tuple[float, ...]
    explained: float
    configs: int


def importance(axes: Sequence[ParameterAxis], scores: Sequence[float]) -> Importance:
    """Permutation importance (Breiman 2001, "Random forests", section 10) in a random forest.

    The axes' positions are the columns, with NaN (a key that a trial config does not have) as a
    missing value. Needs at least `LEAST_CONFIGS` scores. Seeded, hence reproducible.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    columns = np.array([axis.positions for axis in axes]).T  # (trial configs, keys)
    target = np.array(scores)
    forest = RandomForestRegressor(n_estimators=TREES, oob_score=True, random_state=0)
    forest.fit(columns, target)
    found = permutation_importance(forest, columns, target, n_repeats=REPEATS, random_state=0)
    return Importance(
        tuple(axis.name for axis in axes),
        tuple(float(value) for value in found.importances_mean),
        tuple(float(value) for value in found.importances_std),
        float(forest.oob_score_),
        len(scores),
    )


def importance_chart(found: Importance, when: str) -> Chart:
    """A bar per key, the most important on top; the caption says how reliable the order is."""
    order = sorted(range(len(found.names)), key=lambda key: found.drop[key])
    figure = go.Figure(
        go.Bar(
            orientation="h",
            x=[found.drop[key] for key in order],
            y=[label(found.names[key]) for key in order],
            error_x={"type": "data", "array": [found.std[key] for key in order]},
            marker={"color": BLUE},
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        ),
        layout=base_layout(
            140 + 36 * len(order),
            showlegend=False,
            xaxis={"title": {"text": "fall of R² when the key's values are shuffled"}},
            yaxis={"automargin": True},
        ),
    )
    return Chart("importance", "Importance of each key", _caption(found, when), figure)


def _caption(found: Importance, when: str) -> str:
    how = (
        f"Permutation importance in a random forest over {found.configs} trial configs, by the "
        f"score {when}; error bars: the standard deviation over shuffles."
    )
    share = f"On trial configs a tree was not trained on, R² = {found.explained:.2f}"
    if found.explained <= 0:
        return f"{how} {share}: the forest found no rule, and this order is chance."
    if found.configs < FEW:
        return f"{how} {share}. With so few trial configs the order is only a hint."
    return f"{how} {share}."
