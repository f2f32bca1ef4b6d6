"""The figure of a sweep against each of its keys: rank, weights, steps, whatever was searched."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from system.report.charts.chart_style import (
    BLUE,
    GREY,
    VERMILION,
    Chart,
    Choice,
    base_layout,
    label,
)
from tuning.report.common_figures import CommonFigures
from tuning.report.comparison import SettingRow
from tuning.report.measure import Measure
from tuning.report.parameter_axes import Axis

COLUMNS = 3
PANEL_HEIGHT, PANEL_WIDTH = 250, 300
HIT_OR_MISS = "x"  # a setting that did not go to its end


def values_chart(
    rows: Sequence[SettingRow], axes: Sequence[Axis], common: CommonFigures, measure: Measure
) -> Chart:
    """A panel a key: each setting is a point; a line joins the means of repeated values.

    `rows` are the settings in the order of the axes' positions.
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
    early = [common.of_setting.get(row.setting) for row in rows]
    late = [row.figure.mean if row.complete else None for row in rows]
    views = [(measure.after(common.tasks), early)]
    if common.tasks < measure.tasks:
        views.append((f"{measure.after(measure.tasks)}, those that finished", late))
    shown: list[int] = []  # the view of each trace
    for number, axis in enumerate(axes):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        for view, (_, values) in enumerate(views):
            for trace in _panel(rows, axis, values, measure):
                trace.visible = view == 0
                figure.add_trace(trace, **place)
                shown.append(view)
        figure.update_xaxes(**_x_axis(axis), **place)
    for line in range(lines):
        figure.update_yaxes(title_text=label(measure.title), row=line + 1, col=1)
    figure.update_yaxes(zeroline=False, showticklabels=True)
    choices = tuple(
        Choice(name, tuple(trace == view for trace in shown))
        for view, (name, _) in enumerate(views)
    )
    return Chart(
        "values",
        f"{measure.heading} by value",
        "Each point is a setting, at the value it had of a key; the other keys differ too. The "
        "line joins the means of values that were tried more than once. A cross: a setting that "
        "was stopped or failed later.",
        figure,
        choices=choices if len(choices) > 1 else (),
        min_width=PANEL_WIDTH * columns,
    )


def _panel(
    rows: Sequence[SettingRow], axis: Axis, values: Sequence[float | None], measure: Measure
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
                "symbol": ["circle" if done else HIT_OR_MISS for done in whole],
                "color": [BLUE if done else VERMILION for done in whole],
            },
            text=[
                f"{label(row.title)}<br>{label(measure.text(value))}" for _, value, row in points
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    return traces


def _means(points: Sequence[tuple[float, float]]) -> dict[float, float]:
    grouped: dict[float, list[float]] = {}
    for position, value in sorted(points):
        grouped.setdefault(position, []).append(value)
    return {position: sum(values) / len(values) for position, values in grouped.items()}


def _x_axis(axis: Axis) -> Mapping[str, Any]:
    settings: dict[str, Any] = {"title": {"text": label(axis.name)}, "zeroline": False}
    ticks = sorted(set(axis.known))
    if axis.log:
        settings["type"] = "log"
    if axis.names or len(ticks) <= 6:
        settings |= {"tickvals": ticks, "ticktext": [label(axis.text(tick)) for tick in ticks]}
    elif axis.log:
        settings["dtick"] = "D2" if max(ticks) / min(ticks) < 1000 else 1
    return settings
