"""A part of many samples stands for all of them."""

from collections import Counter

import pytest

from system.data.shards.spread import spread


def test_all_are_taken_where_there_are_no_more_than_asked_for() -> None:
    assert list(spread(5, None)) == list(spread(5, 5)) == [0, 1, 2, 3, 4]
    assert list(spread(0, 3)) == []


@pytest.mark.parametrize(("count", "most"), [(10, 4), (1600, 50), (7, 6)])
def test_one_is_taken_of_each_equal_stretch(count: int, most: int) -> None:
    places = list(spread(count, most))
    assert places == sorted(set(places))
    assert [place * most // count for place in places] == pytest.approx(range(most), abs=1)
    assert places == list(spread(count, most))


def test_no_kind_is_left_out_whose_turn_comes_regularly() -> None:
    """Every eighth expression is about the same place of a scene: a method that learned only those,
    and was judged by only those, would look as good as one that can read."""
    kinds = Counter(place % 8 for place in spread(1600, 200))
    assert len(kinds) == 8
    assert min(kinds.values()) > 200 / 8 / 3
