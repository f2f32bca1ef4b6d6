"""Chooses the charts that a sweep allows, and says why another is not there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from system.report.charts.chart_style import Chart
from system.report.charts.run_charts import Absent
from tuning.report.charts.cost_charts import PARAMETERS, SECONDS, cost_chart
from tuning.report.charts.curve_charts import curves_chart
from tuning.report.charts.importance_charts import importance_chart
from tuning.report.charts.parallel_charts import parallel_chart
from tuning.report.charts.schedule_charts import schedules_chart
from tuning.report.charts.value_charts import values_chart
from tuning.report.common_figures import common_figures
from tuning.report.comparison import Comparison
from tuning.report.importance import LEAST_SETTINGS, importance
from tuning.report.measure import Measure
from tuning.report.parameter_axes import axes_of


@dataclass(frozen=True)
class Section:
    """Charts of the page under one heading."""

    key: str
    title: str
    charts: list[Chart | Absent]


def build_charts(
    comparison: Comparison, trials: Sequence[Mapping[str, Any]], measure: Measure
) -> list[Section]:
    """The sections in reading order; a sweep over methods has no keys, a model no stream."""
    sections = []
    if measure.kind == "stream":
        curves: list[Chart | Absent] = [curves_chart(comparison, trials, measure)]
        if (schedules := schedules_chart(comparison, trials, measure)) is not None:
            curves.append(schedules)
        sections.append(Section("stream", "Over the stream", curves))
    searched = _searched(comparison, trials, measure)
    if searched:
        forked = any(row.parent for row in comparison.rows)
        title = "What was drawn at the start" if forked else "What was searched"
        sections.append(Section("keys", title, searched))
    costs = [cost_chart(comparison.rows, cost, measure) for cost in (PARAMETERS, SECONDS)]
    known: list[Chart | Absent] = [chart for chart in costs if chart is not None]
    if known:
        sections.append(Section("costs", "Cost", known))
    return sections


def _searched(
    comparison: Comparison, trials: Sequence[Mapping[str, Any]], measure: Measure
) -> list[Chart | Absent]:
    """Parallel coordinates, a panel a key, importances; nothing where no key was searched."""
    if not any(row.values for row in comparison.rows):
        return []
    common = common_figures(trials)
    # One that took over another's first tasks had that one's values there.
    rows = [row for row in comparison.rows if row.setting in common.of_setting and not row.parent]
    axes = axes_of([row.values for row in rows])
    if not axes:
        reason = "no two settings with different values have a figure yet"
        return [Absent("values", f"{measure.heading} by value", reason)]
    figures = [common.of_setting[row.setting] for row in rows]
    charts: list[Chart | Absent] = [
        parallel_chart(rows, axes, figures, common.tasks, measure),
        values_chart(rows, axes, common, measure),
    ]
    if len(rows) >= LEAST_SETTINGS and len(axes) > 1:
        found = importance(axes, figures)
        charts.append(importance_chart(found, measure.after(common.tasks)))
    else:
        reason = (
            f"it takes {LEAST_SETTINGS} settings with a figure, and here are {len(rows)}"
            if len(axes) > 1
            else "only one key was searched"
        )
        charts.append(Absent("importance", "Importance of each key", reason))
    return charts
