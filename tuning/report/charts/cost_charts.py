"""Score against cost (trainable parameters, seconds), with the Pareto front."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plotly import graph_objects as go

from system.escapes import label
from system.report.charts.chart_style import GREY, Chart, base_layout
from tuning.report.charts.curve_charts import style_of
from tuning.report.comparison import ConfigRow
from tuning.search.sweep_config import SweepMetric

MOST_NAMED = 8  # with more points, only those on the front are labelled


@dataclass(frozen=True)
class Cost:
    """A cost of a trial config; smaller is better."""

    key: str
    title: str
    of: Callable[[ConfigRow], float | None]
    log: bool
    unit: str


def _parameters(row: ConfigRow) -> float | None:
    # plus one, so that a method that trains nothing has a place on the log axis
    return None if row.parameters is None else row.parameters + 1.0


def _seconds(row: ConfigRow) -> float | None:
    return None if math.isnan(row.seconds.mean) else row.seconds.mean


PARAMETERS = Cost("parameters", "trainable parameters, plus one", _parameters, True, "parameters")
SECONDS = Cost("seconds", "seconds of work", _seconds, False, "s")


def cost_chart(rows: Sequence[ConfigRow], cost: Cost, metric: SweepMetric) -> Chart | None:
    """The final score against a cost, of trial configs with all seeds; None if none has both."""
    points = [
        (place, row, price)
        for place, row in enumerate(rows)
        if row.complete and (price := cost.of(row)) is not None
    ]
    if not points:
        return None
    figure = go.Figure(
        layout=base_layout(
            420,
            showlegend=False,
            xaxis={
                "title": {"text": cost.title},
                "type": "log" if cost.log else "linear",
                "zeroline": False,
            },
            yaxis={"title": {"text": label(metric.axis("at the end"))}, "zeroline": False},
        )
    )
    front = pareto_front([(price, row.score.mean) for _, row, price in points])
    if len(front) > 1:
        figure.add_trace(
            go.Scatter(
                name="front",
                x=[points[index][2] for index in front],
                y=[points[index][1].score.mean for index in front],
                mode="lines",
                line={"color": GREY, "width": 1.5, "shape": "hv"},
                hoverinfo="skip",
            )
        )
    for index, (place, row, price) in enumerate(points):
        std = 0.0 if math.isnan(row.score.std) else row.score.std
        style = style_of(place)
        named = len(points) <= MOST_NAMED or index in front
        figure.add_trace(
            go.Scatter(
                name=label(row.label),
                x=[price],
                y=[row.score.mean],
                error_y={"type": "data", "array": [std], "visible": std > 0},
                mode="markers+text" if named else "markers",
                text=[label(row.label)],
                textposition="top center",
                marker={"color": style.color, "symbol": style.marker, "size": 11},
                hovertemplate=f"{label(row.title)}<br>{price:,.6g} {cost.unit}: "
                f"{label(metric.text(row.score.mean))}<extra></extra>",
            )
        )
    return Chart(
        cost.key,
        f"{metric.heading} against {cost.title}",
        "Means over seeds at the end, with the standard deviation. The line is the Pareto front: "
        "no other trial config has a higher score at a lower cost.",
        figure,
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, score) that are not dominated, the cheapest first.

    Of equal points only the first.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda p: (points[p][0], -points[p][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def parameters_front(rows: Sequence[ConfigRow]) -> list[ConfigRow]:
    """The trial configs not dominated in score and parameters, the smallest first."""
    known = [row for row in rows if row.parameters is not None and row.complete]
    points = [(float(row.parameters or 0), row.score.mean) for row in known]
    return [known[place] for place in pareto_front(points)]
