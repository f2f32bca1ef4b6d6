"""The learning curves of a sweep, and the line styles that its charts share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plotly import graph_objects as go

from system.escapes import label
from system.report.charts.chart_style import BLUE, GREY, ORANGE, VERMILION, Chart, base_layout
from tuning.report.comparison import Comparison, ConfigRow
from tuning.search.sweep_config import SweepMetric

# After Okabe and Ito; neighbours differ in dash and marker too, for grey print.
COLORS = (BLUE, VERMILION, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#8C6D1F", "#5B4A8A")
DASHES = ("solid", "dash", "dot")
# No crosses: they mark stopped and failed trials.
MARKERS = (
    *("circle", "square", "diamond", "triangle-up"),
    *("hexagon", "triangle-down", "star", "pentagon"),
)
MOST_COLORED = len(COLORS) * len(DASHES)  # from there on all are grey


@dataclass(frozen=True)
class LineStyle:
    """Colour, line dash and marker of one trial config, the same in all charts of a page."""

    color: str
    dash: str
    marker: str


def style_of(place: int) -> LineStyle:
    """The style of the trial config at a place of the comparison, best first."""
    return LineStyle(
        COLORS[place % len(COLORS)] if place < MOST_COLORED else GREY,
        DASHES[place // len(COLORS) % len(DASHES)],
        MARKERS[place % len(MARKERS)],
    )


def curves_chart(
    comparison: Comparison, trials: Sequence[Mapping[str, Any]], metric: SweepMetric
) -> Chart:
    """The score over the tasks so far: a line per trial config, the range over seeds shaded.

    A stopped or failed trial config ends in a cross after its last task; a fork starts at the last
    task that it inherits from its parent.
    """
    x = list(range(1, metric.tasks + 1))
    figure = go.Figure(
        layout=base_layout(
            460,
            xaxis={
                "title": {"text": "tasks learned"},
                "range": [0.8, metric.tasks + 0.2],
                "dtick": max(1, metric.tasks // 6),
                "tick0": 1,
                "zeroline": False,
            },
            yaxis={"title": {"text": label(metric.axis("so far"))}, "zeroline": False},
            legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"},
        )
    )
    for number, row in enumerate(comparison.rows):
        own = [trial for trial in trials if trial["setting"] == row.label]
        whole = [trial["figure_by_task"] for trial in own if trial["status"] == "finished"]
        # Without a finished trial: the one with the most tasks.
        curves = whole or [max((trial["figure_by_task"] for trial in own), key=len)]
        points = [(task, _at(curves, task - 1)) for task in x if task >= row.forked_after]
        known = [(task, values) for task, values in points if values]
        if not known:
            continue
        style = style_of(number)
        if any(len(values) > 1 for _, values in known):
            figure.add_trace(_band(known, style.color, row.label))
        figure.add_trace(
            go.Scatter(
                name=label(row.label),
                legendgroup=label(row.label),
                x=[task for task, _ in known],
                y=[sum(values) / len(values) for _, values in known],
                mode="lines+markers",
                line={"color": style.color, "width": 2, "dash": style.dash},
                marker={
                    "symbol": style.marker,
                    "size": [6] * (len(known) - 1) + [11 if row.status else 6],
                },
                hovertemplate=f"{label(row.title)}<br>%{{x}} learned: %{{y:.2f}} %<extra></extra>",
            )
        )
        if row.status:
            figure.add_trace(_end(known[-1], style.color, row))
    forked = any(row.lineage for row in comparison.rows)
    return Chart(
        "curves",
        f"{metric.heading} over the stream",
        "The mean of the sweep's recall metrics over the tasks learned so far, after each task. "
        "Lines: means over seeds; shaded: from the lowest to the highest seed. A cross: stopped "
        "or failed there, or with another seed."
        + (" A line that starts later is a fork of another trial config." if forked else "")
        + " Click a name to hide it.",
        figure,
        min_width=720,
    )


def _at(curves: Sequence[Sequence[float | None]], task: int) -> list[float]:
    """The scores of all curves after a task; empty if one of them has none."""
    values = [curve[task] if task < len(curve) else None for curve in curves]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _band(known: Sequence[tuple[int, Sequence[float]]], color: str, name: str) -> go.Scatter:
    """The area from the lowest to the highest seed, as one closed shape."""
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


def _end(last: tuple[int, Sequence[float]], color: str, row: ConfigRow) -> go.Scatter:
    """The cross at the end of a trial config that did not finish."""
    task, values = last
    return go.Scatter(
        x=[task],
        y=[sum(values) / len(values)],
        mode="markers",
        marker={"symbol": "x", "size": 11, "color": color},
        legendgroup=label(row.label),
        showlegend=False,
        hovertemplate=f"{label(row.label)}: {label(row.status)}<extra></extra>",
    )
