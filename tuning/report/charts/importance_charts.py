"""The chart of how much each key mattered."""

from plotly import graph_objects as go

from system.report.charts.chart_style import BLUE, Chart, base_layout, label
from tuning.report.importance import Importance

FEW = 30  # settings below which an order of keys is a hint at most


def importance_chart(found: Importance, when: str) -> Chart:
    """A bar a key, the most important on top; the caption says how far it can be trusted."""
    order = sorted(range(len(found.names)), key=lambda key: found.drop[key])
    figure = go.Figure(
        go.Bar(
            orientation="h",
            x=[found.drop[key] for key in order],
            y=[label(found.names[key]) for key in order],
            error_x={"type": "data", "array": [found.spread[key] for key in order]},
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
        f"Permutation importance in a random forest over {found.settings} settings, by the figure "
        f"{when}; bars: the standard deviation over shuffles."
    )
    share = f"On settings a tree did not see, the forest has R² = {found.explained:.2f}"
    if found.explained <= 0:
        return f"{how} {share}: it found no rule that holds, and this order is chance."
    if found.settings < FEW:
        return f"{how} {share}. So few settings give a hint, no proof: the next draw may differ."
    return f"{how} {share}."
