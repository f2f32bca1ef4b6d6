"""A key's values land where a reader of the chart looks for them."""

import math

from tuning.report.parameter_axes import parameter_axes


def test_numbers_are_themselves_and_words_have_places() -> None:
    axes = parameter_axes([{"rank": 1, "start": "same"}, {"rank": 4, "start": "own"}])
    assert [(axis.name, axis.positions, axis.names) for axis in axes] == [
        ("rank", (1.0, 4.0), ()),
        ("start", (1.0, 0.0), ("own", "same")),
    ]
    assert axes[1].text(1.0) == "same"


def test_a_conditional_key_is_missing_and_not_zero() -> None:
    """Zero is a value: a trial config without the key would stand among those that have it."""
    (_, weight) = parameter_axes([{"method": "lpi", "weight": 0.0}, {"method": "maple"}])
    assert weight.positions[0] == 0.0
    assert math.isnan(weight.positions[1])
    assert weight.known == [0.0]


def test_null_and_lists_are_words() -> None:
    (axis,) = parameter_axes([{"depth": None}, {"depth": 12}, {"depth": 2}, {"depth": [1, 2]}])
    assert axis.names == ("2", "12", "[1, 2]", "null")


def test_true_is_no_number() -> None:
    (axis,) = parameter_axes([{"fresh": True}, {"fresh": False}])
    assert axis.names == ("false", "true")


def test_a_key_with_one_value_is_no_axis() -> None:
    assert parameter_axes([{"rank": 4}, {"rank": 4}]) == []
    assert parameter_axes([]) == []


def test_rates_have_a_log_scale_and_weights_with_zero_have_not() -> None:
    rate, weight = parameter_axes(
        [{"rate": 0.01, "w": 0.0}, {"rate": 0.1, "w": 0.1}, {"rate": 1, "w": 1}]
    )
    assert rate.log
    assert rate.share(0.1) == 0.5
    assert not weight.log
    assert weight.share(0.1) == 0.1
    assert (weight.share(0.0), weight.share(1.0)) == (0.0, 1.0)
