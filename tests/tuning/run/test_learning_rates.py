"""Learning rates: which rate is chosen, and from what."""

import pytest

from tuning.run.learning_rates import best_rate


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ({0.01: 20.0, 0.1: 25.0, 1.0: 3.0}, 0.1),
        ({0.1: 25.0, 0.01: 25.0}, 0.01),  # of equals the smaller one: it is the safer one
        ({0.01: None, 0.1: 4.0}, 0.1),  # 0.01 diverged
        ({0.01: None}, None),
        ({}, None),
    ],
)
def test_the_best_rate(figures: dict[float, float | None], best: float | None) -> None:
    assert best_rate(figures) == best
