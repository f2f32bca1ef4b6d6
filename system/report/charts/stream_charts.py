"""Curves over the stream: averages, each task's recall, and the losses of training."""

import pyarrow as pa
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from system.escapes import label
from system.report.charts.chart_style import (
    BLUE,
    GREY,
    VERMILION,
    Chart,
    base_layout,
    labels,
)
from system.report.matrix_view import MatrixView
from system.report.metrics_view import METRIC_LABELS
from system.report.subsample import SHOWN_POINTS, shown_tasks, subsample
from system.results.accuracy_matrix import ZERO_SHOT

PANEL_COLUMNS = 4
METRIC_LOOK = {
    "t2i_r1": {"color": BLUE, "symbol": "circle"},
    "i2t_r1": {"color": VERMILION, "symbol": "square"},
    "rec_r1": {"color": BLUE, "symbol": "circle"},
}


def average_curve_chart(matrix: MatrixView) -> Chart:
    """Average over the tasks learned so far against the frozen backbone on the same tasks."""
    every = [index for index in matrix.trained if index != ZERO_SHOT]
    learned = [every[place] for place in subsample(len(every), SHOWN_POINTS)]
    x = [index + 1 for index in learned]
    figure = go.Figure(
        layout=base_layout(
            340,
            xaxis=_count_axis(len(matrix.tasks), first=1) | {"title": {"text": "tasks learned"}},
            yaxis={
                "title": {"text": "average recall, %"},
                "rangemode": "tozero",
                "zeroline": False,
            },
            hovermode="x unified",
        )
    )
    for metric in matrix.headline:
        look = METRIC_LOOK[metric]
        for name, values, dash in (
            (
                METRIC_LABELS[metric],
                [matrix.average_so_far(metric, index, index) for index in learned],
                "solid",
            ),
            (
                f"{METRIC_LABELS[metric]}, zero-shot",
                [matrix.average_so_far(metric, ZERO_SHOT, index) for index in learned],
                "dot",
            ),
        ):
            figure.add_trace(
                go.Scatter(
                    name=name,
                    x=x,
                    y=values,
                    mode="lines+markers" if dash == "solid" else "lines",
                    line={"color": look["color"], "dash": dash, "width": 2},
                    marker={"symbol": look["symbol"], "size": 7},
                    hovertemplate="%{y:.1f} %",
                )
            )
    return Chart(
        "average",
        "Average of the tasks learned so far",
        "After each task, the mean recall at 1 over the tasks learned up to then; dotted, the "
        "frozen backbone on the same tasks. A level shifts when a harder or easier task joins.",
        figure,
    )


def task_curves_chart(matrix: MatrixView) -> Chart:
    """One panel per task: its recall against the number of tasks learned, 0 being zero-shot."""
    shown, number = subsample(len(matrix.tasks)), len(matrix.tasks)
    count = len(shown)
    columns = min(PANEL_COLUMNS, count)
    rows = -(-count // columns)
    figure = make_subplots(
        rows,
        columns,
        shared_xaxes=True,
        shared_yaxes=True,
        subplot_titles=labels([matrix.tasks[task] for task in shown]),
        horizontal_spacing=0.025,
        vertical_spacing=min(0.12, 0.3 / rows),
    )
    figure.update_layout(base_layout(90 + 165 * rows, margin={"l": 56, "r": 16, "t": 64, "b": 56}))
    figure.update_layout(legend_y=1 + 34 / (165 * rows - 30))
    figure.update_xaxes(**_count_axis(number, first=0))
    figure.update_yaxes(range=[0, _ceiling(matrix)], zeroline=False)
    trained = [matrix.trained[place] for place in subsample(len(matrix.trained))]
    x = [index + 1 for index in trained]
    for panel, task in enumerate(shown):
        place = {"row": panel // columns + 1, "col": panel % columns + 1}
        for metric in matrix.headline:
            look = METRIC_LOOK[metric]
            figure.add_trace(
                go.Scatter(
                    name=METRIC_LABELS[metric],
                    legendgroup=metric,
                    showlegend=panel == 0,
                    x=x,
                    y=[matrix.value(metric, index, task) for index in trained],
                    mode="lines+markers",
                    line={"color": look["color"], "width": 1.75},
                    marker={"symbol": look["symbol"], "size": 4},
                    hovertemplate="%{x} learned: %{y:.1f} %",
                ),
                **place,
            )
    learned = [_vertical(task + 1, panel, "dash") for panel, task in enumerate(shown, start=1)]
    figure.update_layout(shapes=learned)
    for column in range(1, columns + 1):
        # The lowest panel of a column is in the last row only where the grid is full there.
        last = rows if (rows - 1) * columns + column <= count else rows - 1
        figure.update_xaxes(title_text="tasks learned", showticklabels=True, row=last, col=column)
    figure.update_yaxes(title_text="recall at 1, %", col=1)
    figure.update_annotations(font_size=12)
    return Chart(
        "curves",
        "Each task over the stream",
        "One panel per task: recall at 1 against the number of tasks learned (0: zero-shot). The "
        "dashed line marks when the task itself was learned. All panels share one scale."
        + shown_tasks(number),
        figure,
        min_width=200 * columns,
    )


def training_chart(log: pa.Table) -> Chart:
    """The loss and its terms at the end of each epoch, over the steps of the whole stream."""
    data = log.sort_by([("task_index", "ascending"), ("epoch", "ascending")])
    steps, starts = _running_steps(data)
    starts = [starts[place] for place in subsample(len(starts))]
    rows_shown = subsample(len(steps), SHOWN_POINTS)
    data, steps = data.take(rows_shown), [steps[place] for place in rows_shown]
    terms = ["loss", *(name for name in data.column_names if name.startswith("loss_"))]
    titles = [label(term.removeprefix("loss_").replace("_", " ")) for term in terms]
    titles[0] = "total loss"
    figure = make_subplots(
        len(terms), 1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.22 / len(terms)
    )
    margin = {"l": 64, "r": 16, "t": 32, "b": 110}
    figure.update_layout(base_layout(150 + 130 * len(terms), margin=margin, showlegend=False))
    names = data["task"].to_pylist()
    for row, term in enumerate(terms, start=1):
        figure.add_trace(
            go.Scatter(
                x=steps,
                y=data[term].to_pylist(),
                customdata=[
                    [label(str(name)), epoch]
                    for name, epoch in zip(names, data["epoch"].to_pylist(), strict=True)
                ],
                mode="lines+markers",
                line={"color": BLUE if row == 1 else VERMILION, "width": 1.5},
                marker={"size": 4},
                hovertemplate=(
                    "%{customdata[0]}, epoch %{customdata[1]}, step %{x}: %{y:.4f}<extra></extra>"
                ),
            ),
            row=row,
            col=1,
        )
    figure.update_layout(
        shapes=[
            _vertical(start, panel, "dot")
            for panel in range(1, len(terms) + 1)
            for start, _ in starts[1:]
        ]
    )
    figure.update_yaxes(rangemode="tozero", zeroline=False, nticks=4)
    figure.update_xaxes(zeroline=False, showgrid=False, range=[0, steps[-1]])
    figure.update_xaxes(
        row=len(terms),
        col=1,
        tickmode="array",
        tickvals=[start for start, _ in starts],
        ticktext=[f"{start} {label(name)}" for start, name in starts],
        tickangle=-45,
        title_text="steps, at the start of each task",
    )
    figure.update_annotations(font_size=12)
    return Chart(
        "training",
        "Training",
        "Loss and its terms at the end of each epoch. Dotted lines: the next task begins.",
        figure,
    )


def _running_steps(data: pa.Table) -> tuple[list[int], list[tuple[int, str]]]:
    """Steps since the start of the stream for each row, and (step, name) where each task starts.

    The log counts the steps of each task from its own start.
    """
    steps: list[int] = []
    starts: list[tuple[int, str]] = []
    current = None
    for task, name, step in zip(
        *(data[column].to_pylist() for column in ("task_index", "task", "step")), strict=True
    ):
        if task != current:
            starts.append((steps[-1] if steps else 0, str(name)))
            current = task
        steps.append(starts[-1][0] + step)
    return steps, starts


def _vertical(x: float, panel: int, dash: str) -> dict[str, object]:
    """Line over the whole height of a panel, numbered from 1 row by row."""
    number = "" if panel == 1 else str(panel)
    return {
        "type": "line",
        "xref": f"x{number}",
        "yref": f"y{number} domain",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "line": {"color": GREY, "width": 1, "dash": dash},
    }


def _count_axis(tasks: int, first: int) -> dict[str, object]:
    """Axis of the number of tasks learned from `first` on, whole numbers only."""
    return {
        "range": [first - 0.4, tasks + 0.4],
        "dtick": max(1, tasks // 6),
        "tick0": 0,
        "zeroline": False,
    }


def _ceiling(matrix: MatrixView) -> float:
    """Upper end of the recall axis: a multiple of ten above every value, at most 105."""
    highest = [matrix.highest(metric) for metric in matrix.headline]
    return min(105.0, (max(highest, default=0.0) // 10 + 1) * 10)
