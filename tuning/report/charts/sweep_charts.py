"""The charts of a sweep's page; a chart that cannot be drawn is replaced by the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from system.report.charts.chart_style import Chart
from system.report.charts.run_charts import Absent
from tuning.report.charts.cost_charts import PARAMETERS, SECONDS, cost_chart
from tuning.report.charts.curve_charts import curves_chart
from tuning.report.charts.importance_charts import LEAST_CONFIGS, importance, importance_chart
from tuning.report.charts.parallel_charts import parallel_chart
from tuning.report.charts.schedule_charts import schedules_chart
from tuning.report.charts.value_charts import values_chart
from tuning.report.comparison import Comparison, common_scores
from tuning.report.parameter_axes import parameter_axes
from tuning.search.sweep_config import SweepMetric


@dataclass(frozen=True)
class Section:
    """Charts of the page under one heading."""

    key: str
    title: str
    charts: list[Chart | Absent]


def build_charts(
    comparison: Comparison, trials: Sequence[Mapping[str, Any]], metric: SweepMetric
) -> list[Section]:
    """The sections in reading order; some sweeps search no keys, and models learn no stream."""
    sections = []
    if metric.kind == "stream":
        curves: list[Chart | Absent] = [curves_chart(comparison, trials, metric)]
        if (schedules := schedules_chart(comparison, trials, metric)) is not None:
            curves.append(schedules)
        sections.append(Section("stream", "Over the stream", curves))
    searched = _searched(comparison, trials, metric)
    if searched:
        forked = any(row.parent for row in comparison.rows)
        title = "Values at the start" if forked else "Search space"
        sections.append(Section("keys", title, searched))
    costs = [cost_chart(comparison.rows, cost, metric) for cost in (PARAMETERS, SECONDS)]
    known: list[Chart | Absent] = [chart for chart in costs if chart is not None]
    if known:
        sections.append(Section("costs", "Cost", known))
    return sections


def _searched(
    comparison: Comparison, trials: Sequence[Mapping[str, Any]], metric: SweepMetric
) -> list[Chart | Absent]:
    """Parallel coordinates, a panel per key, importances; empty if no key was searched."""
    if not any(row.values for row in comparison.rows):
        return []
    common = common_scores(trials)
    # Without forks: in the tasks they inherit, they had the values of their parents.
    rows = [row for row in comparison.rows if row.label in common.by_config and not row.parent]
    axes = parameter_axes([row.values for row in rows])
    if not axes:
        reason = "no two trial configs with different values have a score yet"
        return [Absent("values", f"{metric.heading} by value", reason)]
    scores = [common.by_config[row.label] for row in rows]
    charts: list[Chart | Absent] = [
        parallel_chart(rows, axes, scores, common.tasks, metric),
        values_chart(rows, axes, common, metric),
    ]
    if len(rows) >= LEAST_CONFIGS and len(axes) > 1:
        found = importance(axes, scores)
        charts.append(importance_chart(found, metric.after(common.tasks)))
    else:
        reason = (
            f"it takes {LEAST_CONFIGS} trial configs with a score, and there are {len(rows)}"
            if len(axes) > 1
            else "only one key was searched"
        )
        charts.append(Absent("importance", "Importance of each key", reason))
    return charts
