"""Schedules of population based training: each trial config's value of a key at each task."""

from collections.abc import Mapping, Sequence
from typing import Any

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from system.escapes import label
from system.report.charts.chart_style import Chart, base_layout
from tuning.report.charts.curve_charts import style_of
from tuning.report.comparison import Comparison, ConfigRow
from tuning.report.parameter_axes import LOG_FROM
from tuning.search.population import by_task
from tuning.search.sweep_config import SweepMetric

PANEL_HEIGHT = 300


def schedules_chart(
    comparison: Comparison, trials: Sequence[Mapping[str, Any]], metric: SweepMetric
) -> Chart | None:
    """A panel for each key that forks changed; None without forks.

    A fork's line starts on its parent's, at the last inherited task.
    """
    forks = [row for row in comparison.rows if row.parent]
    keys = [k for k in (forks[0].values if forks else ()) if isinstance(forks[0].values[k], list)]
    if not keys:
        return None
    figure = make_subplots(rows=len(keys), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    figure.update_layout(
        base_layout(
            PANEL_HEIGHT * len(keys) + 60,
            legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"},
        )
    )
    learned = {
        row.label: max(len(t["figure_by_task"]) for t in trials if t["setting"] == row.label)
        for row in comparison.rows
    }
    for panel, key in enumerate(keys, 1):
        drawn: list[float] = []
        for number, row in enumerate(comparison.rows):
            values = by_task(row.values[key], learned[row.label]) if key in row.values else []
            first = max(row.forked_after, 1)
            if not values[first - 1 :]:
                continue
            drawn += values
            figure.add_trace(_line(row, number, first, values, show=panel == 1), row=panel, col=1)
        log = min(drawn) > 0 and max(drawn) / min(drawn) >= LOG_FROM
        scale = {"type": "log", "dtick": "D2"} if log else {"type": "linear"}
        figure.update_yaxes(title_text=label(key), zeroline=False, row=panel, col=1, **scale)
    figure.update_xaxes(
        range=[0.8, metric.tasks + 0.2], dtick=max(1, metric.tasks // 6), tick0=1, zeroline=False
    )
    figure.update_xaxes(title_text="task", row=len(keys), col=1)
    return Chart(
        "schedules",
        "Values over the stream",
        "The value of each trial config at each task. A line that starts later is a fork, and "
        "starts on its parent's line. A cross: stopped or failed after that task.",
        figure,
        min_width=720,
    )


def _line(
    row: ConfigRow, number: int, first: int, values: Sequence[float], *, show: bool
) -> go.Scatter:
    style = style_of(number)
    known = list(values[first - 1 :])
    end = "x" if row.status else "circle"
    return go.Scatter(
        name=label(row.label),
        legendgroup=label(row.label),
        showlegend=show,
        x=list(range(first, first + len(known))),
        y=known,
        mode="lines+markers",
        line={"color": style.color, "width": 2, "dash": style.dash},
        marker={"symbol": ["circle"] * (len(known) - 1) + [end], "size": 7},
        hovertemplate=f"{label(row.title)}<br>task %{{x}}: %{{y:.4g}}<extra></extra>",
    )
