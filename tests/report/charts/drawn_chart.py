"""The content of one chart of a run."""

from typing import Any

from system.report.charts.chart_style import Chart
from system.report.charts.run_charts import build_charts
from system.report.run_data import RunData


def content(data: RunData, key: str) -> dict[str, Any]:
    """The plain JSON of the chart with this key, which must be drawn."""
    (chart,) = (chart for chart in build_charts(data) if chart.key == key)
    assert isinstance(chart, Chart)
    return chart.content
