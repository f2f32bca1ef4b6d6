"""What a setting costs against what it reaches, with the Pareto front."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plotly import graph_objects as go

from system.report.charts.chart_style import GREY, Chart, base_layout, label
from tuning.report.comparison import SettingRow
from tuning.report.measure import Measure
from tuning.report.setting_style import style_of

MOST_NAMED = 8  # points that all carry their name; of more, those of the front


@dataclass(frozen=True)
class Cost:
    """A price of a setting: small is better."""

    key: str
    title: str
    of: Callable[[SettingRow], float | None]
    log: bool
    unit: str


def _parameters(row: SettingRow) -> float | None:
    # what trains nothing has a place on a log axis too
    return None if row.parameters is None else row.parameters + 1.0


def _seconds(row: SettingRow) -> float | None:
    return None if math.isnan(row.seconds.mean) else row.seconds.mean


PARAMETERS = Cost("parameters", "trainable parameters, plus one", _parameters, True, "parameters")
SECONDS = Cost("seconds", "seconds of work", _seconds, False, "s")


def cost_chart(rows: Sequence[SettingRow], cost: Cost, measure: Measure) -> Chart | None:
    """The final figure against a cost, of settings with all seeds; None when none has both."""
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
            yaxis={"title": {"text": label(measure.axis("at the end"))}, "zeroline": False},
        )
    )
    front = pareto_front([(price, row.figure.mean) for _, row, price in points])
    if len(front) > 1:
        figure.add_trace(
            go.Scatter(
                name="front",
                x=[points[index][2] for index in front],
                y=[points[index][1].figure.mean for index in front],
                mode="lines",
                line={"color": GREY, "width": 1.5, "shape": "hv"},
                hoverinfo="skip",
            )
        )
    for index, (place, row, price) in enumerate(points):
        std = 0.0 if math.isnan(row.figure.std) else row.figure.std
        style = style_of(place)
        named = len(points) <= MOST_NAMED or index in front
        figure.add_trace(
            go.Scatter(
                name=label(row.setting),
                x=[price],
                y=[row.figure.mean],
                error_y={"type": "data", "array": [std], "visible": std > 0},
                mode="markers+text" if named else "markers",
                text=[label(row.setting)],
                textposition="top center",
                marker={"color": style.color, "symbol": style.marker, "size": 11},
                hovertemplate=f"{label(row.title)}<br>{price:,.6g} {cost.unit}: "
                f"{label(measure.text(row.figure.mean))}<extra></extra>",
            )
        )
    return Chart(
        cost.key,
        f"{measure.heading} against {cost.title}",
        "Means over seeds at the end, with the standard deviation. The line is the Pareto front: "
        "no other setting reaches more for less.",
        figure,
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (cost, figure) that no other one beats, the cheapest first.

    Of equal points the first one stands for all.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda p: (points[p][0], -points[p][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def parameters_front(rows: Sequence[SettingRow]) -> list[SettingRow]:
    """The settings that no other beats with fewer parameters, the smallest first."""
    known = [row for row in rows if row.parameters is not None and row.complete]
    points = [(float(row.parameters or 0), row.figure.mean) for row in known]
    return [known[place] for place in pareto_front(points)]
