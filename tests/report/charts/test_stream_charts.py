"""Curves over the stream that a reader could misread."""

import pytest

from system.report.run_data import RunData
from tests.report.charts.drawn_chart import content


def test_steps_of_all_tasks_are_joined_end_to_end(data: RunData) -> None:
    """Else the losses of all tasks lie on one another."""
    total = content(data, "training")["data"][0]
    assert total["x"] == [13 * (n + 1) for n in range(120)]
    ticks = content(data, "training")["layout"]["xaxis4"]
    assert ticks["ticktext"][:2] == ["0 appliance", "130 sports"]


def test_average_so_far_compares_the_same_tasks(data: RunData) -> None:
    """Else zero-shot is averaged over other tasks than the method."""
    assert data.matrix is not None
    method, zero_shot = content(data, "average")["data"][:2]
    matrix = data.matrix
    for learned in range(12):
        tasks = range(learned + 1)
        for trace, row in ((method, learned), (zero_shot, -1)):
            values = [matrix.value("t2i_r1", row, task) for task in tasks]
            expected = sum(v for v in values if v is not None) / len(values)
            assert trace["y"][learned] == pytest.approx(expected)
