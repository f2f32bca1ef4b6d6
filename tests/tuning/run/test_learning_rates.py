"""Learning rates: which rate is chosen, and from what."""

import pytest

from tuning.run.learning_rates import best_rate
from tuning.search.sweep_config import TuneConfig


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


def test_a_method_has_its_own_rates_or_the_default() -> None:
    config = TuneConfig(learning_rates={"default": (0.1,), "lora": (0.001, 0.01)})
    assert config.rates_for("lora", "lora") == (0.001, 0.01)
    assert config.rates_for("lpi", "lpi") == (0.1,)
    assert config.rates_for("lora_deep", "lora") == (0.001, 0.01)  # a variant of it
    assert TuneConfig(learning_rates={"lora": (0.1,)}).rates_for("lpi", "lpi") == ()
