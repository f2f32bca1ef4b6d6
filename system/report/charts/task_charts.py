"""Bars per task: routing accuracy, and zero-shot against routed against true task given."""

from collections.abc import Mapping, Sequence

from plotly import graph_objects as go

from system.report.charts.chart_style import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    Chart,
    Choice,
    base_layout,
    labels,
)
from system.report.matrix_view import MatrixView
from system.report.metrics_view import METRIC_LABELS, MetricsView
from system.report.subsample import shown_tasks, subsample
from system.results.accuracy_matrix import ZERO_SHOT

BAR_WIDTH = 52  # pixels a task needs


def routing_chart(metrics: MetricsView, tasks: Sequence[str]) -> Chart:
    """Share of each task's test images and texts that the router sends to the right task."""
    number, chance = len(tasks), 100 / len(tasks)
    tasks = [tasks[task] for task in subsample(number)]
    figure = go.Figure(layout=_bar_layout(tasks, "routed to their task, %", [0, 100]))
    for modality, name, color in (("image", "images", BLUE), ("text", "texts", ORANGE)):
        values = [metrics.number("routing", modality, task) for task in tasks]
        if not metrics.mapping("routing", modality):
            continue  # expressions go where their image goes
        figure.add_trace(_bars(name, tasks, values, color))
    figure.add_trace(
        go.Scatter(
            name=f"chance, {chance:.1f} %",
            x=[-0.5, len(tasks) - 0.5],
            y=[chance, chance],
            mode="lines",
            line={"color": VERMILION, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    averages = {
        name: metrics.number("routing", f"{modality}_average")
        for modality, name in (("image", "images"), ("text", "texts"))
    }
    mean = ", ".join(
        f"{name} {value:.1f} %" for name, value in averages.items() if value is not None
    )
    return Chart(
        "routing",
        "Routing accuracy",
        "Test images and texts whose task the router infers correctly, by task."
        + (f" Average: {mean}." if mean else "")
        + shown_tasks(number),
        figure,
        min_width=110 + BAR_WIDTH * len(tasks),
    )


def method_chart(metrics: MetricsView, matrix: MatrixView) -> Chart:
    """Per task at the end: frozen backbone, the router's choice of prompts, the true task's."""
    shown = subsample(len(matrix.tasks))
    tasks = [matrix.tasks[task] for task in shown]
    figure = go.Figure(layout=_bar_layout(tasks, "recall at 1, %", None))
    last = matrix.trained[-1]
    counts = []
    for metric in matrix.headline:
        oracle = [metrics.number("oracle", "per_task", task, metric) for task in tasks]
        series: dict[str, tuple[list[float | None], str]] = {
            "zero-shot": ([matrix.value(metric, ZERO_SHOT, task) for task in shown], GREY),
            "this run, task inferred": ([matrix.value(metric, last, task) for task in shown], BLUE),
            "true task given": (oracle, ORANGE),
        }
        defined = _defined(series)
        counts.append(len(defined))
        for name, (values, color) in defined.items():
            figure.add_trace(_bars(name, tasks, values, color, visible=len(counts) == 1))
    average = [
        f"{METRIC_LABELS[metric]} {value:.1f} %"
        for metric in matrix.headline
        if (value := metrics.number("oracle", "average", metric)) is not None
    ]
    total, first = sum(counts), counts[0]
    return Chart(
        "methods",
        "What the prompts gain, and what routing costs",
        "The frozen backbone, the prompts the router picks, and the prompts of the true task, on "
        "each task after the last one learned."
        + (f" Average with the true task given: {', '.join(average)}." if average else "")
        + shown_tasks(len(matrix.tasks)),
        figure,
        tuple(
            Choice(METRIC_LABELS[metric], tuple((n < first) == (i == 0) for n in range(total)))
            for i, metric in enumerate(matrix.headline)
        ),
        min_width=110 + BAR_WIDTH * len(tasks),
    )


def _defined(
    series: Mapping[str, tuple[list[float | None], str]],
) -> dict[str, tuple[list[float | None], str]]:
    """Without the series that hold no value at all."""
    return {name: entry for name, entry in series.items() if any(v is not None for v in entry[0])}


def _bars(
    name: str, tasks: Sequence[str], values: list[float | None], color: str, visible: bool = True
) -> go.Bar:
    """One bar per task at positions 0..K-1; an undefined value leaves a gap."""
    return go.Bar(
        name=name,
        x=list(range(len(tasks))),
        y=values,
        marker={"color": color},
        visible=visible,
        hovertemplate="%{y:.1f} %",
    )


def _bar_layout(tasks: Sequence[str], title: str, limits: list[int] | None) -> go.Layout:
    """Grouped bars with the tasks' names below."""
    return base_layout(
        360,
        barmode="group",
        bargap=0.25,
        hovermode="x unified",
        margin={"l": 64, "r": 16, "t": 32, "b": 84},
        xaxis={
            "range": [-0.5, len(tasks) - 0.5],
            "tickmode": "array",
            "tickvals": list(range(len(tasks))),
            "ticktext": labels(tasks),
            "tickangle": -45,
            "showgrid": False,
            "zeroline": False,
            "automargin": True,
        },
        yaxis={"title": {"text": title}, "rangemode": "tozero", "range": limits},
    )
