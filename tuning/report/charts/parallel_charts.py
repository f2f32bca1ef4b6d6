"""Parallel coordinates: a line per trial config through its values to its score.

Drawn from plain lines: Plotly's own kind of trace compiles code in the browser, which the page's
policy forbids, and it cannot leave out a key that a trial config does not have.
"""

import math
import textwrap
from collections.abc import Sequence

from plotly import graph_objects as go
from plotly.colors import sample_colorscale

from system.escapes import label
from system.report.charts.chart_style import SEQUENTIAL, Chart, base_layout
from tuning.report.comparison import ConfigRow
from tuning.report.parameter_axes import ParameterAxis
from tuning.search.sweep_config import SweepMetric

MOST_TICKS = 6
PALEST = 0.25  # of the colour scale: the lowest score must still be visible


def parallel_chart(
    rows: Sequence[ConfigRow],
    axes: Sequence[ParameterAxis],
    scores: Sequence[float],
    tasks: int,
    metric: SweepMetric,
) -> Chart:
    """Lines from axis to axis; the darker, the higher the score. Stopped ones are dotted.

    `scores` are those after `tasks` tasks, in the order of `rows` and of the axes' positions.
    """
    last = ParameterAxis(metric.axis(metric.after(tasks)), tuple(scores))
    columns = [*axes, last]
    figure = go.Figure(
        layout=base_layout(
            440,
            showlegend=False,
            margin={"l": 64, "r": 96, "t": 24, "b": 72},
            xaxis={
                "range": [-0.15, len(columns) - 0.75],
                "tickvals": list(range(len(columns))),
                "ticktext": [_wrapped(axis.name) for axis in columns],
                "showgrid": True,
                "zeroline": False,
            },
            yaxis={"range": [-0.06, 1.06], "visible": False},
        )
    )
    # the best last, so that it lies on top
    for place in sorted(range(len(rows)), key=lambda place: scores[place]):
        row = rows[place]
        done = row.complete
        shade = PALEST + (1 - PALEST) * last.share(scores[place])
        shares = [axis.share(axis.positions[place]) for axis in columns]
        figure.add_trace(
            go.Scatter(
                name=label(row.label),
                x=list(range(len(columns))),
                y=[None if math.isnan(share) else share for share in shares],
                mode="lines+markers",
                connectgaps=False,
                line={
                    "color": sample_colorscale(SEQUENTIAL, [shade])[0],
                    "width": 2,
                    "dash": "solid" if done else "dot",
                },
                marker={"size": 6},
                text=[f"{label(row.title)}: {label(metric.text(scores[place]))}"] * len(columns),
                hovertemplate="%{text}<extra></extra>",
            )
        )
    for column, axis in enumerate(columns):
        for position in _ticks(axis):
            figure.add_annotation(
                x=column,
                y=axis.share(position),
                text=label(axis.text(position)),
                showarrow=False,
                xanchor="left",
                xshift=8,
                font={"size": 11},
            )
    return Chart(
        "parallel",
        "Parallel coordinates",
        "Each line is a trial config, from axis to axis through its values to its score: the "
        "darker, the higher. Dotted: stopped or failed later. A gap: it does not have this key.",
        figure,
        min_width=130 * len(columns),
    )


def _ticks(axis: ParameterAxis) -> list[float]:
    """All values if they are few, else the two ends and the middle."""
    values = sorted(set(axis.known))
    if len(values) <= MOST_TICKS:
        return values
    return [values[0], values[len(values) // 2], values[-1]]


def _wrapped(name: str) -> str:
    """A dotted or spaced name on several lines, so that neighbours do not overlap."""
    lines = textwrap.wrap(name.replace(".", ". "), width=16, break_long_words=False)
    return "<br>".join(label(line) for line in lines)
