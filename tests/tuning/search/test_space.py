"""A search space means what it says, and a wrong one is one line before the first trial."""

import numpy as np
import pytest

from system.errors import ConfigError
from tuning.search.space import Space, parse_space


def points(section: dict[str, object]) -> list[dict[str, object]]:
    return parse_space(section).grid()


def test_a_grid_crosses_all_values() -> None:
    """A combination that is left out would never be tried."""
    grid = points({"method.rank": {"grid": [1, 2]}, "seed2": {"choice": ["a", None]}})
    assert grid == [
        {"method.rank": 1, "seed2": "a"},
        {"method.rank": 1, "seed2": None},
        {"method.rank": 2, "seed2": "a"},
        {"method.rank": 2, "seed2": None},
    ]


def test_nested_and_dotted_keys_are_the_same_key() -> None:
    """The nested form is what an override of a shipped space reaches."""
    dotted = parse_space(
        {"method.rank": {"grid": [1]}, "method.layer_alignment.weight": {"grid": [0.1]}}
    )
    nested = parse_space(
        {"method": {"rank": {"grid": [1]}, "layer_alignment": {"weight": {"grid": [0.1]}}}}
    )
    assert dotted == nested


def test_a_group_and_its_values_can_both_be_searched() -> None:
    space = parse_space(
        {
            "method": {
                "choice": ["lpi", "maple"],
                "rank": {"grid": [1, 2], "when": {"method": "lpi"}},
            }
        }
    )
    assert space.grid() == [
        {"method": "lpi", "method.rank": 1},
        {"method": "lpi", "method.rank": 2},
        {"method": "maple"},
    ]


@pytest.mark.parametrize("seed", range(5))
def test_draws_stay_inside_their_ranges(seed: int) -> None:
    space = parse_space(
        {
            "a": {"uniform": [-1, 1]},
            "b": {"loguniform": [1e-5, 1e-1]},
            "c": {"randint": [2, 4]},
            "d": {"choice": ["x", "y"]},
        }
    )
    for point in space.sample(20, seed):
        assert -1 <= point["a"] <= 1
        assert 1e-5 <= point["b"] <= 1e-1
        assert point["c"] in (2, 3, 4)
        assert point["d"] in ("x", "y")


def test_both_ends_of_randint_are_drawn() -> None:
    space = parse_space({"c": {"randint": [2, 4]}})
    assert {point["c"] for point in space.sample(3, 0)} == {2, 3, 4}


def test_draws_repeat_themselves_and_grow_at_their_end() -> None:
    """More samples later must leave the finished trials as they are."""
    space = parse_space({"a": {"uniform": [0, 1]}, "b": {"choice": [1, 2, 3]}})
    assert space.sample(4, 7) == space.sample(8, 7)[:4]
    assert space.sample(4, 7) != space.sample(4, 8)


def test_draws_differ_and_end_where_the_space_does() -> None:
    """The same values twice would waste a trial."""
    space = parse_space({"a": {"choice": [1, 2]}, "b": {"choice": [1, 2]}})
    drawn = space.sample(50, 0)
    assert len(drawn) == 4
    assert len({tuple(point.items()) for point in drawn}) == 4


def test_random_draws_are_crossed_with_grids() -> None:
    space = parse_space({"a": {"uniform": [0, 1]}, "b": {"grid": [1, 2]}})
    drawn = space.sample(3, 0)
    assert [point["b"] for point in drawn] == [1, 2] * 3
    assert drawn[0]["a"] == drawn[1]["a"]


def test_a_conditional_key_is_drawn_only_where_it_applies() -> None:
    space = parse_space({"a": {"choice": [1, 2]}, "b": {"uniform": [0, 1], "when": {"a": 1}}})
    drawn = space.sample(20, 0)
    assert {("b" in point) == (point["a"] == 1) for point in drawn} == {True}


def test_log_uniform_draws_over_decades() -> None:
    dimension = parse_space({"b": {"loguniform": [1e-4, 1.0]}}).dimensions[0]
    rng = np.random.default_rng(0)
    drawn = [dimension.draw(rng) for _ in range(400)]
    assert 0.4 < sum(value < 1e-2 for value in drawn) / 400 < 0.6


def test_an_empty_space_has_one_point() -> None:
    assert Space(()).grid() == [{}]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"method.rank": {"grid": []}}, r"tune\.space\.method\.rank\.grid=\[\] is empty"),
        ({"method.rank": {"grid": 3}}, r"method\.rank\.grid=3 is empty or no list"),
        ({"method.rank": 3}, r"tune\.space\.method\.rank=3 must be one of grid, choice"),
        ({"method.rank": {}}, r"method\.rank=\{\} must be one of"),
        ({"method": {"rank": [1, 2]}}, r"tune\.space\.method\.rank=\[1, 2\] must be one of"),
        ({"a": {"uniform": [2, 1]}}, r"a\.uniform=\[2, 1\] is an empty range"),
        ({"a": {"uniform": [1, 1]}}, "empty range"),
        ({"a": {"uniform": [1]}}, "two numbers"),
        ({"a": {"uniform": ["x", 2]}}, "two numbers"),
        ({"a": {"randint": [1, 2.5]}}, "two whole numbers"),
        ({"a": {"randint": [True, 2]}}, "two whole numbers"),
        ({"a": {"loguniform": [0, 1]}}, r"loguniform=\[0, 1\] must be above 0"),
        ({"a": {"grid": [1, 1]}}, r"a\.grid=\[1, 1\] names a value twice"),
        ({"a": {"grid": [1], "choice": [1]}}, "a has grid and choice"),
        ({"a.b": {"grid": [1]}, "a": {"b": {"grid": [2]}}}, r"a\.b is given twice"),
        ({"a": {"when": {"b": 1}}}, "a has a condition and none of"),
        ({"a": {"grid": [1], "when": {"b": 1}}}, r"when b=1 looks at a key that is not before it"),
        ({"b": {"grid": [2]}, "a": {"grid": [1], "when": {"b": 1}}}, r"when b=1 never holds"),
        ({"a": {"grid": [1], "when": 3}}, r"a\.when=3 must be a mapping"),
    ],
)
def test_a_wrong_space_is_one_line_that_names_the_key(
    section: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_space(section)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_not_there_is_not_null() -> None:
    """Else a method without interaction would get the rank of one."""
    space = parse_space(
        {
            "method": {"grid": ["lpi", "maple"]},
            "depth": {"grid": [0, None], "when": {"method": "lpi"}},
            "rank": {"grid": [1], "when": {"depth": None}},
        }
    )
    assert space.grid() == [
        {"method": "lpi", "depth": 0},
        {"method": "lpi", "depth": None, "rank": 1},
        {"method": "maple"},
    ]
