"""The charts of a sweep: recall over the stream by setting, and against trainable parameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plotly import graph_objects as go

from system.report.chart_style import BLUE, GREY, ORANGE, VERMILION, Chart, base_layout, label
from tuning.comparison import Comparison, SettingRow

# After Okabe and Ito; neighbours differ in dash and marker too, for grey print.
COLORS = (BLUE, VERMILION, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#8C6D1F", "#5B4A8A")
DASHES = ("solid", "dash", "dot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "pentagon")
MOST_COLORED = len(COLORS) * len(DASHES)


def curves_chart(
    comparison: Comparison, trials: Sequence[Mapping[str, Any]], tasks: Sequence[str]
) -> Chart:
    """Average recall over the tasks so far, by task: a setting's mean over seeds, its range shaded.

    A setting that was stopped or failed ends in a cross, after its last task.
    """
    x = list(range(1, len(tasks) + 1))
    figure = go.Figure(
        layout=base_layout(
            460,
            xaxis={
                "title": {"text": "tasks learned"},
                "range": [0.8, len(tasks) + 0.2],
                "dtick": max(1, len(tasks) // 6),
                "tick0": 1,
                "zeroline": False,
            },
            yaxis={"title": {"text": "average recall so far, %"}, "zeroline": False},
            legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"},
        )
    )
    for number, row in enumerate(comparison.rows):
        own = [trial for trial in trials if trial["setting"] == row.setting]
        whole = [trial["recall_by_task"] for trial in own if trial["status"] == "finished"]
        # Of a setting that never finished, the trial that came furthest.
        curves = whole or [max((trial["recall_by_task"] for trial in own), key=len)]
        points = [(task, _at(curves, task - 1)) for task in x]
        known = [(task, values) for task, values in points if values]
        if not known:
            continue
        color = COLORS[number % len(COLORS)] if number < MOST_COLORED else GREY
        if any(len(values) > 1 for _, values in known):
            figure.add_trace(_band(known, color, row.setting))
        figure.add_trace(
            go.Scatter(
                name=label(row.setting),
                legendgroup=label(row.setting),
                x=[task for task, _ in known],
                y=[sum(values) / len(values) for _, values in known],
                mode="lines+markers",
                line={
                    "color": color,
                    "width": 2,
                    "dash": DASHES[number // len(COLORS) % len(DASHES)],
                },
                marker={
                    "symbol": MARKERS[number % len(MARKERS)],
                    "size": [6] * (len(known) - 1) + [6 if whole else 11],
                },
                hovertemplate="%{x} learned: %{y:.2f} %",
            )
        )
        if not whole:
            figure.add_trace(_end(known[-1], color, row))
    return Chart(
        "curves",
        "Average recall over the stream",
        "After each task, the mean over the tasks learned so far of the sweep's recall metrics. "
        "Lines: means over seeds; shaded: from the lowest to the highest seed. A cross: stopped "
        "or failed there. Click a name to hide it.",
        figure,
        min_width=720,
    )


def parameters_chart(comparison: Comparison) -> Chart | None:
    """Final recall against trainable parameters; None when no setting has both."""
    rows = [
        row
        for row in comparison.rows
        if row.parameters is not None and not math.isnan(row.recall.mean)
    ]
    if not rows:
        return None
    figure = go.Figure(
        layout=base_layout(
            420,
            showlegend=False,
            xaxis={
                "title": {"text": "trainable parameters of the whole stream, plus one"},
                "type": "log",
                "zeroline": False,
            },
            yaxis={"title": {"text": "average recall at the end, %"}, "zeroline": False},
        )
    )
    for number, row in enumerate(rows):
        std = 0.0 if math.isnan(row.recall.std) else row.recall.std
        figure.add_trace(
            go.Scatter(
                name=label(row.setting),
                x=[(row.parameters or 0) + 1],  # what trains nothing has a place on a log axis too
                y=[row.recall.mean],
                error_y={"type": "data", "array": [std], "visible": std > 0},
                mode="markers+text",
                text=[label(row.setting)],
                textposition="top center",
                marker={
                    "color": COLORS[number % len(COLORS)],
                    "symbol": MARKERS[number % len(MARKERS)],
                    "size": 11,
                },
                hovertemplate=f"{row.parameters:,} parameters: %{{y:.2f}} %",
            )
        )
    return Chart(
        "parameters",
        "Recall against trainable parameters",
        "Mean over seeds at the end of the stream, with the standard deviation; up and to the left "
        "is better.",
        figure,
    )


def _at(curves: Sequence[Sequence[float | None]], task: int) -> list[float]:
    """The figures of all curves after a task; none when any of them lacks it."""
    values = [curve[task] if task < len(curve) else None for curve in curves]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _band(known: Sequence[tuple[int, Sequence[float]]], color: str, name: str) -> go.Scatter:
    """From the lowest to the highest seed, as one closed shape."""
    tasks = [task for task, _ in known]
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*tasks, *reversed(tasks)],
        y=[*(max(v) for _, v in known), *(min(v) for _, v in reversed(known))],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.15)",
        line={"width": 0},
        mode="lines",
        legendgroup=label(name),
        showlegend=False,
        hoverinfo="skip",
    )


def _end(last: tuple[int, Sequence[float]], color: str, row: SettingRow) -> go.Scatter:
    """The cross at the end of a setting that did not finish."""
    task, values = last
    return go.Scatter(
        x=[task],
        y=[sum(values) / len(values)],
        mode="markers",
        marker={"symbol": "x", "size": 11, "color": color},
        legendgroup=label(row.setting),
        showlegend=False,
        hovertemplate=f"{label(row.setting)}: {label(row.status)}<extra></extra>",
    )
