"""Parallel coordinates: each line passes through the values of its trial config."""

from tests.tuning.report.charts.chart_traces import named, traces
from tests.tuning.report.sweep_rows import RANK_SWEEP, RECALL, compared
from tuning.report.charts.parallel_charts import MOST_TICKS, parallel_chart
from tuning.report.comparison import common_scores
from tuning.report.parameter_axes import ParameterAxis, parameter_axes

ROWS = compared(RANK_SWEEP).rows
SCORES = common_scores(RANK_SWEEP)
CHART = parallel_chart(
    ROWS,
    parameter_axes([row.values for row in ROWS]),
    [SCORES.by_config[row.label] for row in ROWS],
    SCORES.tasks,
    RECALL,
)


def test_lines_pass_through_the_values() -> None:
    lines = named(CHART)
    assert len(lines) == len(RANK_SWEEP)
    assert lines["lpi-000"]["y"] == [0.0, None, 0.0]  # rank, no width, score
    assert lines["lpi-011"]["y"] == [1.0, 1.0, 1.0]


def test_stopped_trial_configs_are_dotted() -> None:
    dotted = [name for name, line in named(CHART).items() if line["line"]["dash"] == "dot"]
    assert dotted == ["lpi-005"]


def test_the_highest_score_is_drawn_last() -> None:
    """Else a worse line would lie upon it."""
    assert traces(CHART)[-1]["y"][-1] == 1.0


def test_an_axis_with_many_values_has_three_ticks() -> None:
    """More labels would cover each other."""
    axis = ParameterAxis("weight", tuple(float(n) for n in range(len(ROWS))))
    chart = parallel_chart(ROWS, [axis], [1.0] * len(ROWS), 1, RECALL)
    texts = [note["text"] for note in chart.content["layout"]["annotations"] if note["x"] == 0]  # type: ignore[index]
    assert len(ROWS) > MOST_TICKS
    assert texts == ["0", "6", "11"]
