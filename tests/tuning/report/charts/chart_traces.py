"""The traces of a chart, as the page draws them."""

from typing import Any

from system.report.charts.chart_style import Chart
from system.report.charts.run_charts import Absent


def traces(chart: Chart | Absent | None) -> list[dict[str, Any]]:
    """All traces; fails if there is no chart."""
    assert isinstance(chart, Chart)
    data = chart.content["data"]
    assert isinstance(data, list)
    return data


def named(chart: Chart | Absent | None) -> dict[str, dict[str, Any]]:
    """The traces that stand in the legend or have a label, by name."""
    return {trace["name"]: trace for trace in traces(chart) if trace.get("name")}
