"""The score against each key of the search space, a panel per key."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from system.escapes import label
from system.report.charts.chart_style import BLUE, GREY, VERMILION, Chart, Choice, base_layout
from tuning.report.comparison import CommonScores, ConfigRow
from tuning.report.parameter_axes import ParameterAxis
from tuning.search.sweep_config import SweepMetric

COLUMNS = 3
PANEL_HEIGHT, PANEL_WIDTH = 250, 300
STOPPED_MARKER = "x"  # of trial configs that did not finish


def values_chart(
    rows: Sequence[ConfigRow],
    axes: Sequence[ParameterAxis],
    common: CommonScores,
    metric: SweepMetric,
) -> Chart:
    """A panel per key: a point per trial config; a line joins the means of repeated values.

    `rows` are in the order of the axes' positions.
    """
    columns = min(COLUMNS, len(axes))
    lines = -(-len(axes) // columns)
    figure = make_subplots(
        rows=lines,
        cols=columns,
        shared_yaxes="all",
        horizontal_spacing=0.06,
        vertical_spacing=0.32 / lines,
    )
    height = PANEL_HEIGHT * lines + 90
    figure.update_layout(base_layout(height, showlegend=False))
    early = [common.by_config.get(row.label) for row in rows]
    late = [row.score.mean if row.complete else None for row in rows]
    views = [(metric.after(common.tasks), early)]
    if common.tasks < metric.tasks:
        views.append((f"{metric.after(metric.tasks)}, those that finished", late))
    view_of_trace: list[int] = []
    for number, axis in enumerate(axes):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        for view, (_, values) in enumerate(views):
            for trace in _panel(rows, axis, values, metric):
                trace.visible = view == 0
                figure.add_trace(trace, **place)
                view_of_trace.append(view)
        figure.update_xaxes(**_x_axis(axis), **place)
    for line in range(lines):
        figure.update_yaxes(title_text=label(metric.title), row=line + 1, col=1)
    figure.update_yaxes(zeroline=False, showticklabels=True)
    choices = tuple(
        Choice(name, tuple(trace == view for trace in view_of_trace))
        for view, (name, _) in enumerate(views)
    )
    return Chart(
        "values",
        f"{metric.heading} by value",
        "Each point is a trial config, at its value of a key; the other keys differ too. The "
        "line joins the means of values that were tried more than once. A cross: a trial config "
        "that was stopped or failed later.",
        figure,
        choices=choices if len(choices) > 1 else (),
        min_width=PANEL_WIDTH * columns,
    )


def _panel(
    rows: Sequence[ConfigRow],
    axis: ParameterAxis,
    values: Sequence[float | None],
    metric: SweepMetric,
) -> list[go.Scatter]:
    points = [
        (position, value, row)
        for position, value, row in zip(axis.positions, values, rows, strict=True)
        if value is not None and not math.isnan(position)
    ]
    traces = []
    means = _means([(position, value) for position, value, _ in points])
    if len(means) < len(points):
        traces.append(
            go.Scatter(
                x=list(means),
                y=list(means.values()),
                mode="lines",
                line={"color": GREY, "width": 1.5},
                hoverinfo="skip",
            )
        )
    whole = [row.complete for _, _, row in points]
    traces.append(
        go.Scatter(
            x=[position for position, _, _ in points],
            y=[value for _, value, _ in points],
            mode="markers",
            marker={
                "size": 9,
                "symbol": ["circle" if done else STOPPED_MARKER for done in whole],
                "color": [BLUE if done else VERMILION for done in whole],
            },
            text=[f"{label(row.title)}<br>{label(metric.text(value))}" for _, value, row in points],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    return traces


def _means(points: Sequence[tuple[float, float]]) -> dict[float, float]:
    grouped: dict[float, list[float]] = {}
    for position, value in sorted(points):
        grouped.setdefault(position, []).append(value)
    return {position: sum(values) / len(values) for position, values in grouped.items()}


def _x_axis(axis: ParameterAxis) -> Mapping[str, Any]:
    layout: dict[str, Any] = {"title": {"text": label(axis.name)}, "zeroline": False}
    ticks = sorted(set(axis.known))
    if axis.log:
        layout["type"] = "log"
    if axis.names or len(ticks) <= 6:
        layout |= {"tickvals": ticks, "ticktext": [label(axis.text(tick)) for tick in ticks]}
    elif axis.log:
        layout["dtick"] = "D2" if max(ticks) / min(ticks) < 1000 else 1
    return layout
