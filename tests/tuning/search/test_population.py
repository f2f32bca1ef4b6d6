"""Who of a population ends and what takes their places: from the figures alone, again the same."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.methods.parts import weight_at
from tuning.search.pbt_config import PbtConfig
from tuning.search.population import Verdict, branched, by_task, explored, judge, rungs
from tuning.search.space import parse_space

SPACE = parse_space(
    {
        "rank": {"choice": [1, 2, 4]},
        "align": {"loguniform": [0.01, 1.0]},
        "contrast": {"choice": [1.0, 0.0, 0.1]},
        "depth": {"choice": [1, 2], "when": {"rank": 4}},
    }
)
CONFIG = PbtConfig(keys=("align", "contrast"))


def values(rank: int = 2, align: Any = 0.1, contrast: Any = 0.1) -> dict[str, Any]:
    return {"rank": rank, "align": align, "contrast": contrast}


def verdict(figures: dict[str, float | None], rung: int = 1, **changes: Any) -> Verdict | None:
    config = PbtConfig(**({"keys": CONFIG.keys} | changes))
    of = {label: values(rank) for rank, label in enumerate(figures)}
    return judge(figures, of, SPACE, config, 0, rung, len(figures))


def test_a_stream_is_compared_everywhere_but_at_its_end() -> None:
    assert list(rungs(1, 4)) == [1, 2, 3]
    assert list(rungs(2, 5)) == [2, 4]
    assert not rungs(4, 4)


@pytest.mark.parametrize(
    ("trials", "share", "ended"),
    [(2, 0.5, 1), (6, 0.34, 2), (6, 0.01, 1), (5, 0.5, 2), (3, 0.3, 1)],
)
def test_the_worst_share_ends_and_as_many_forks_come(trials: int, share: float, ended: int) -> None:
    figures: dict[str, float | None] = {f"t{n}": float(n * 7 % trials) for n in range(trials)}
    found = verdict(figures, share=share)
    assert found is not None
    order = sorted(figures, key=lambda label: figures[label] or 0.0)
    assert set(found.ended) == set(order[:ended])
    assert len(found.forks) == ended
    assert {fork.parent for fork in found.forks} <= set(order[-ended:])


def test_of_equals_the_earlier_is_the_better() -> None:
    found = verdict({"a": 1.0, "b": 1.0})
    assert found is not None
    assert (found.ended, found.forks[0].parent) == (("b",), "a")


def test_who_has_no_figure_is_in_neither_and_one_alone_is_not_compared() -> None:
    found = verdict({"a": None, "b": 1.0, "c": 2.0})
    assert found is not None
    assert (found.ended, found.forks[0].parent) == (("b",), "c")
    assert verdict({"a": None, "b": 1.0}) is None
    assert verdict({}) is None


def test_a_fork_keeps_its_parents_past_and_what_is_not_explored() -> None:
    """Else what it took over was not learned with its own config, and best.yaml lies."""
    rng = np.random.default_rng(0)
    once = branched(values(), SPACE, CONFIG, 1, rng)
    assert once["rank"] == 2
    assert (len(once["align"]), once["align"][0], once["contrast"][0]) == (2, 0.1, 0.1)
    again = branched(once, SPACE, CONFIG, 3, rng)
    assert again["align"][:3] == [0.1, once["align"][1], once["align"][1]]
    assert len(again["align"]) == 4
    assert "depth" not in again


def test_a_key_that_a_setting_has_not_is_not_explored() -> None:
    config = PbtConfig(keys=("align", "depth"))
    found = branched(values(), SPACE, config, 1, np.random.default_rng(0))
    assert "depth" not in found
    assert isinstance(found["align"], list)


@given(value=st.one_of(st.floats(0, 10), st.lists(st.floats(0, 10), min_size=1, max_size=5)))
def test_by_task_reads_a_list_as_the_method_does(value: Any) -> None:
    weight = tuple(value) if isinstance(value, list) else value
    assert by_task(value, 7) == [weight_at(weight, task) for task in range(7)]


def around(key: str, value: float, **changes: Any) -> set[float]:
    """All that becomes of a value."""
    (dimension,) = (d for d in SPACE.dimensions if d.key == key)
    config = PbtConfig(keys=(key,), **changes)
    rng = np.random.default_rng(1)
    return {explored(dimension, value, config, rng) for _ in range(200)}


def test_a_number_is_multiplied_and_may_leave_its_range() -> None:
    assert around("align", 0.1, resample=0) == {0.08, 0.125}
    assert around("align", 1.0, resample=0, factors=(2.0,)) == {2.0}
    assert around("align", 0.0, resample=0) == {0.0}


def test_a_listed_value_becomes_a_neighbour_by_size() -> None:
    assert around("contrast", 0.1, resample=0) == {0.0, 1.0}
    assert around("contrast", 0.0, resample=0) == {0.1}
    assert around("contrast", 1.0, resample=0) == {0.1}


def test_a_new_draw_comes_from_the_space() -> None:
    assert around("contrast", 0.1, resample=1) == {0.0, 0.1, 1.0}
    drawn = around("align", 0.1, resample=1)
    assert len(drawn) > 100
    assert all(0.01 <= value <= 1 for value in drawn)
    mixed = around("align", 0.1)
    assert {0.08, 0.125} < mixed


@given(
    figures=st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=2, max_size=8),
    rung=st.integers(1, 4),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 5),
)
def test_what_is_kept_on_storage_is_what_would_be_said_again(
    figures: list[float | None], rung: int, share: float, seed: int
) -> None:
    """A sweep that was killed before it wrote its verdict comes to the same one."""
    named = {f"t{n}": figure for n, figure in enumerate(figures)}
    config = PbtConfig(keys=CONFIG.keys, share=share)
    of = {label: values() for label in named}
    first = judge(named, of, SPACE, config, seed, rung, len(named))
    assert judge(named, of, SPACE, config, seed, rung, len(named)) == first
    if first is None:
        assert sum(figure is not None for figure in figures) < 2
        return
    assert Verdict.of(json.loads(json.dumps(asdict(first)))) == first
    known = [figure for figure in figures if figure is not None]
    assert len(first.ended) == max(1, int(share * len(known))) == len(first.forks)
    for fork in first.forks:
        assert fork.parent not in first.ended
        for key in CONFIG.keys:
            assert fork.values[key][:rung] == [0.1] * rung
            assert fork.values[key][rung] >= 0


def test_new_trials_of_one_comparison_differ_in_their_draws() -> None:
    figures: dict[str, float | None] = {f"t{n}": float(n) for n in range(8)}
    found = verdict(figures, share=0.5, resample=1)
    assert found is not None
    assert len({json.dumps(fork.values) for fork in found.forks}) == 4
    later = verdict(figures, rung=2, share=0.5, resample=1)
    assert later is not None
    assert [f.values["align"][-1] for f in later.forks] != [
        f.values["align"][-1] for f in found.forks
    ]
