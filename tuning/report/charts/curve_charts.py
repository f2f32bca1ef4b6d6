"""The curves of a sweep: the figure over the stream, a line a setting."""

from collections.abc import Mapping, Sequence
from typing import Any

from plotly import graph_objects as go

from system.report.charts.chart_style import Chart, base_layout, label
from tuning.report.comparison import Comparison, SettingRow
from tuning.report.measure import Measure
from tuning.report.setting_style import style_of


def curves_chart(
    comparison: Comparison, trials: Sequence[Mapping[str, Any]], measure: Measure
) -> Chart:
    """The figure over the tasks so far, by task: a setting's mean over seeds, its range shaded.

    A setting that was stopped or failed ends in a cross, after its last task; one that took over
    another's first tasks starts where it left that one's line.
    """
    x = list(range(1, measure.tasks + 1))
    figure = go.Figure(
        layout=base_layout(
            460,
            xaxis={
                "title": {"text": "tasks learned"},
                "range": [0.8, measure.tasks + 0.2],
                "dtick": max(1, measure.tasks // 6),
                "tick0": 1,
                "zeroline": False,
            },
            yaxis={"title": {"text": label(measure.axis("so far"))}, "zeroline": False},
            legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"},
        )
    )
    for number, row in enumerate(comparison.rows):
        own = [trial for trial in trials if trial["setting"] == row.setting]
        whole = [trial["figure_by_task"] for trial in own if trial["status"] == "finished"]
        # Of a setting that never finished, the trial that came furthest.
        curves = whole or [max((trial["figure_by_task"] for trial in own), key=len)]
        points = [(task, _at(curves, task - 1)) for task in x if task >= row.forked_after]
        known = [(task, values) for task, values in points if values]
        if not known:
            continue
        style = style_of(number)
        if any(len(values) > 1 for _, values in known):
            figure.add_trace(_band(known, style.color, row.setting))
        figure.add_trace(
            go.Scatter(
                name=label(row.setting),
                legendgroup=label(row.setting),
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
        f"{measure.heading} over the stream",
        "After each task, the mean over the tasks learned so far of the sweep's recall metrics. "
        "Lines: means over seeds; shaded: from the lowest to the highest seed. A cross: stopped "
        "or failed there, or with another seed."
        + (" A line that starts later took over what another had learned so far." if forked else "")
        + " Click a name to hide it.",
        figure,
        min_width=720,
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
