"""Schedules of population based training: the value that each trial config had at each task."""

from tests.tuning.report.charts.chart_traces import named
from tests.tuning.report.sweep_rows import FORKED_SWEEP, RANK_SWEEP, RECALL, compared
from tuning.report.charts.schedule_charts import schedules_chart


def test_lines_are_the_values_by_task_and_a_fork_starts_on_its_parents() -> None:
    chart = schedules_chart(compared(FORKED_SWEEP), FORKED_SWEEP, RECALL)
    assert {name: (line["x"], line["y"]) for name, line in named(chart).items()} == {
        "lpi-000": ([1, 2, 3], [0.1, 0.1, 0.1]),
        "lpi-001": ([1, 2], [1.0, 1.0]),  # it was stopped after two tasks
        "lpi-002": ([2, 3], [0.1, 0.125]),
    }


def test_a_cross_ends_the_line_of_a_stopped_trial_config() -> None:
    lines = named(schedules_chart(compared(FORKED_SWEEP), FORKED_SWEEP, RECALL))
    assert lines["lpi-001"]["marker"]["symbol"] == ["circle", "x"]
    assert set(lines["lpi-002"]["marker"]["symbol"]) == {"circle"}


def test_without_forks_there_is_no_chart() -> None:
    assert schedules_chart(compared(RANK_SWEEP), RANK_SWEEP, RECALL) is None
