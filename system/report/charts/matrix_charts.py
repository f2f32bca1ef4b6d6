"""Heat maps: the accuracy matrix and the similarity of tasks."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects as go

from system.report.charts.chart_style import (
    CELL_TEXT_LIMIT,
    SEQUENTIAL,
    VERMILION,
    Chart,
    Choice,
    base_layout,
    labels,
)
from system.report.matrix_view import MatrixView
from system.report.metrics_view import METRIC_LABELS
from system.report.subsample import shown_tasks, subsample
from system.results.accuracy_matrix import ZERO_SHOT

CELL_HEIGHT = 30  # pixels
CELL_WIDTH = 50
NAME_SPACE = 90  # pixels for task names beside and below the cells


def accuracy_matrix_chart(matrix: MatrixView) -> Chart:
    """Heat map of R[i, j]: rows after task i, first row zero-shot, diagonal cells framed."""
    metrics = [metric for metric in METRIC_LABELS if metric in matrix.metrics]
    shown = subsample(len(matrix.tasks))
    names = labels([matrix.tasks[task] for task in shown])
    kept = {ZERO_SHOT, *shown, *matrix.trained[-1:]}
    trained = [index for index in matrix.trained if index in kept]
    row_names = [
        "zero-shot" if index == ZERO_SHOT else f"{index + 1} {matrix.tasks[index]}"
        for index in trained
    ]
    figure = go.Figure(layout=_heat_layout(names, labels(row_names)))
    for number, metric in enumerate(metrics):
        rows = [[matrix.value(metric, index, task) for task in shown] for index in trained]
        known = [value for row in rows for value in row if value is not None]
        figure.add_trace(
            go.Heatmap(
                name=METRIC_LABELS[metric],
                x=list(range(len(shown))),
                y=list(range(len(row_names))),
                z=rows,
                customdata=_hover_names(labels(row_names), names),
                hovertemplate=(
                    "%{customdata[1]}<br>after: %{customdata[0]}<br>%{z:.1f} %<extra></extra>"
                ),
                visible=number == 0,
                **_cell_look(len(shown), ".1f"),
                zmin=min(known, default=0),
                zmax=max(known, default=100),
                colorbar={"title": {"text": "%"}, "thickness": 12, "outlinewidth": 0},
            )
        )
    figure.update_layout(
        shapes=[
            _frame(column=shown.index(index), row=row)
            for row, index in enumerate(trained)
            if index in shown
        ],
        xaxis_title={"text": "evaluated task", "standoff": 8},
        yaxis_title={"text": "after learning", "standoff": 12},
    )
    return Chart(
        "matrix",
        "Accuracy matrix",
        "Recall in percent on each task (column) after each task learned (row). Framed: the task "
        "just learned. Left of the frame lie earlier tasks (forgetting), right of it tasks not yet "
        "learned (transfer). The colours span the metric's smallest to its largest value."
        + shown_tasks(len(matrix.tasks)),
        figure,
        _choices([METRIC_LABELS[metric] for metric in metrics]),
        min_width=NAME_SPACE + 120 + CELL_WIDTH * len(shown),
    )


#: Descriptions of the similarity, by its source.
SOURCES = {
    "captions": "Cosine similarity of the means of the tasks' caption features",
    "images": "Cosine similarity of the means of the tasks' image features",
    "names": "Cosine similarity of the text features of the tasks' names",
    "matrix": "Similarity of the tasks as the given matrix has it",
}


def task_similarity_chart(
    similarity: Sequence[Sequence[float | None]] | NDArray[np.float64],
    tasks: Sequence[str],
    source: str,
    *,
    centred: bool = False,
    attracting: Sequence[tuple[str, str]] | None = None,
) -> Chart:
    """Heat map of the K x K similarities of tasks; cells not computed stay empty.

    The cells of `attracting` pairs are framed; None stands for a method that compares no tasks.
    """
    shown = subsample(len(tasks))
    names = labels([tasks[task] for task in shown])
    rows = [[_known(similarity[i][j]) for j in shown] for i in shown]
    known = [value for row in rows for value in row if value is not None]
    figure = go.Figure(
        go.Heatmap(
            x=list(range(len(names))),
            y=list(range(len(names))),
            z=rows,
            customdata=_hover_names(names, names),
            hovertemplate="%{customdata[0]} – %{customdata[1]}<br>%{z:.3f}<extra></extra>",  # noqa: RUF001
            **_cell_look(len(names), ".2f"),
            zmin=min(known, default=0.0),
            zmax=max(known, default=1.0),
            colorbar={"thickness": 12, "outlinewidth": 0},
        ),
        layout=_heat_layout(names, names),
    )
    place = {tasks[task]: index for index, task in enumerate(shown)}
    figure.update_layout(
        shapes=[
            _frame(column=place[column], row=place[row])
            for one, other in attracting or ()
            if one in place and other in place
            for column, row in ((one, other), (other, one))
        ]
    )
    backbone = "" if source == "matrix" else " from the frozen backbone"
    centre = ", centred over the tasks so far" if centred else ""
    return Chart(
        "similarity",
        "Task similarity",
        f"{SOURCES[source]}{backbone}{centre}; each pair as it was when the later task came. "
        f"{_attraction(attracting, len(tasks))}The colours span the smallest to the largest "
        f"value; an empty cell was not computed.{shown_tasks(len(tasks))}",
        figure,
        min_width=NAME_SPACE + 120 + CELL_WIDTH * len(names),
    )


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _attraction(pairs: Sequence[tuple[str, str]] | None, tasks: int) -> str:
    """A sentence on the pairs that attract; none for a method that compares no tasks."""
    if pairs is None:
        return ""
    of_all = f"{len(pairs)} of {tasks * (tasks - 1) // 2} pairs attract each other"
    if not pairs:
        return f"{of_all}: the task contrast pushes all tasks apart. "
    return f"Framed: {of_all} in the task contrast, the others repel. "


def _choices(names: Sequence[str]) -> tuple[Choice, ...]:
    """One button per trace."""
    return tuple(
        Choice(name, tuple(number == other for other in range(len(names))))
        for number, name in enumerate(names)
    )


def _heat_layout(columns: list[str], rows: list[str]) -> go.Layout:
    axis: dict[str, object] = {
        "showgrid": False,
        "zeroline": False,
        "tickmode": "array",
        "ticks": "outside",  # unseen, to keep the names off the cells
        "ticklen": 5,
        "tickcolor": "rgba(0,0,0,0)",
        "automargin": True,
    }
    return base_layout(
        height=NAME_SPACE + 28 + CELL_HEIGHT * len(rows),
        margin={"l": NAME_SPACE + 36, "r": 16, "t": 8, "b": NAME_SPACE},
        xaxis=axis
        | {"tickvals": list(range(len(columns))), "ticktext": columns, "tickangle": -45}
        | {"range": [-0.5, len(columns) - 0.5]},
        # Reversed: the stream runs downwards, as the matrix is written.
        yaxis=axis
        | {"tickvals": list(range(len(rows))), "ticktext": rows}
        | {"range": [len(rows) - 0.5, -0.5]},
    )


def _cell_look(columns: int, number_format: str) -> dict[str, object]:
    text = f"%{{z:{number_format}}}" if columns <= CELL_TEXT_LIMIT else ""
    return {
        "colorscale": SEQUENTIAL,
        "xgap": 1,
        "ygap": 1,
        "texttemplate": text,
        "textfont": {"size": 11},
        "hoverongaps": False,
    }


def _hover_names(rows: list[str], columns: list[str]) -> list[list[list[str]]]:
    """(row, column) names of each cell."""
    return [[[row, column] for column in columns] for row in rows]


def _frame(column: int, row: int) -> dict[str, object]:
    """Outline of one cell."""
    return {
        "type": "rect",
        "x0": column - 0.5,
        "x1": column + 0.5,
        "y0": row - 0.5,
        "y1": row + 0.5,
        "line": {"color": VERMILION, "width": 2.5},
    }
