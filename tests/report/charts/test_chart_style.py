"""Charts take the texts of datasets as texts, and undefined values as gaps."""

import math

from plotly import graph_objects as go

from system.escapes import label
from system.report.charts.chart_style import Chart, base_layout


def test_a_task_name_is_no_markup() -> None:
    """The chart library would draw `<b>` and follow a link."""
    assert label('<b>"a" & b</b>') == '&lt;b&gt;"a" &amp; b&lt;/b&gt;'


def test_an_undefined_value_is_a_gap() -> None:
    """NaN is no JSON: the page's script would stop at it."""
    figure = go.Figure(go.Scatter(y=[1.0, math.nan, None]), layout=base_layout(300, hovermode="x"))
    content = Chart("key", "title", "caption", figure).content
    data, layout = content["data"], content["layout"]
    assert isinstance(data, list)
    assert isinstance(layout, dict)
    assert data[0]["y"] == [1.0, None, None]
    assert (layout["height"], layout["hovermode"]) == (300, "x")
