"""Population based training: deterministic in the scores, refused where it cannot work."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.errors import ConfigError
from system.methods.parts import weight_at
from tuning.search.population import (
    Decision,
    PbtConfig,
    by_task,
    decide,
    explore,
    fork_values,
    rungs,
)
from tuning.search.space import parse_space
from tuning.search.sweep_plan import SweepPlan

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


def decision(scores: dict[str, float | None], rung: int = 1, **changes: Any) -> Decision | None:
    config = PbtConfig(**({"keys": CONFIG.keys} | changes))
    of = {label: values(rank) for rank, label in enumerate(scores)}
    return decide(scores, of, SPACE, config, 0, rung, len(scores))


def test_a_stream_is_compared_everywhere_but_at_its_end() -> None:
    assert list(rungs(1, 4)) == [1, 2, 3]
    assert list(rungs(2, 5)) == [2, 4]
    assert not rungs(4, 4)


@pytest.mark.parametrize(
    ("trials", "share", "ended"),
    [(2, 0.5, 1), (6, 0.34, 2), (6, 0.01, 1), (5, 0.5, 2), (3, 0.3, 1)],
)
def test_the_worst_share_ends_and_as_many_forks_come(trials: int, share: float, ended: int) -> None:
    scores: dict[str, float | None] = {f"t{n}": float(n * 7 % trials) for n in range(trials)}
    found = decision(scores, share=share)
    assert found is not None
    order = sorted(scores, key=lambda label: scores[label] or 0.0)
    assert set(found.ended) == set(order[:ended])
    assert len(found.forks) == ended
    assert {fork.parent for fork in found.forks} <= set(order[-ended:])


def test_of_equals_the_earlier_is_the_better() -> None:
    found = decision({"a": 1.0, "b": 1.0})
    assert found is not None
    assert (found.ended, found.forks[0].parent) == (("b",), "a")


def test_who_has_no_figure_is_in_neither_and_one_alone_is_not_compared() -> None:
    found = decision({"a": None, "b": 1.0, "c": 2.0})
    assert found is not None
    assert (found.ended, found.forks[0].parent) == (("b",), "c")
    assert decision({"a": None, "b": 1.0}) is None
    assert decision({}) is None


def test_a_fork_keeps_its_parents_past_and_what_is_not_explored() -> None:
    """Else what it took over was not learned with its own config, and best.yaml lies."""
    rng = np.random.default_rng(0)
    once = fork_values(values(), SPACE, CONFIG, 1, rng)
    assert once["rank"] == 2
    assert (len(once["align"]), once["align"][0], once["contrast"][0]) == (2, 0.1, 0.1)
    again = fork_values(once, SPACE, CONFIG, 3, rng)
    assert again["align"][:3] == [0.1, once["align"][1], once["align"][1]]
    assert len(again["align"]) == 4
    assert "depth" not in again


def test_a_missing_key_is_not_explored() -> None:
    config = PbtConfig(keys=("align", "depth"))
    found = fork_values(values(), SPACE, config, 1, np.random.default_rng(0))
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
    return {explore(dimension, value, config, rng) for _ in range(200)}


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
    scores=st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=2, max_size=8),
    rung=st.integers(1, 4),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 5),
)
def test_a_stored_decision_is_the_one_that_would_be_made_again(
    scores: list[float | None], rung: int, share: float, seed: int
) -> None:
    """A sweep that was killed before it stored its decision comes to the same one."""
    named = {f"t{n}": score for n, score in enumerate(scores)}
    config = PbtConfig(keys=CONFIG.keys, share=share)
    of = {label: values() for label in named}
    first = decide(named, of, SPACE, config, seed, rung, len(named))
    assert decide(named, of, SPACE, config, seed, rung, len(named)) == first
    if first is None:
        assert sum(score is not None for score in scores) < 2
        return
    assert Decision.from_dict(json.loads(json.dumps(first.to_dict()))) == first
    known = [score for score in scores if score is not None]
    assert len(first.ended) == max(1, int(share * len(known))) == len(first.forks)
    for fork in first.forks:
        assert fork.parent not in first.ended
        for key in CONFIG.keys:
            assert fork.values[key][:rung] == [0.1] * rung
            assert fork.values[key][rung] >= 0


def test_new_trials_of_one_comparison_differ_in_their_draws() -> None:
    scores: dict[str, float | None] = {f"t{n}": float(n) for n in range(8)}
    found = decision(scores, share=0.5, resample=1)
    assert found is not None
    assert len({json.dumps(fork.values) for fork in found.forks}) == 4
    later = decision(scores, rung=2, share=0.5, resample=1)
    assert later is not None
    assert [f.values["align"][-1] for f in later.forks] != [
        f.values["align"][-1] for f in found.forks
    ]


SEARCHED = (
    "space:{method:{rank:{choice:[1,2]},task_start:{choice:[same,own]},"
    "layer_alignment:{weight:{loguniform:[0.01,1]}},task_contrast:{weight:{choice:[0.0,0.1]},"
    "threshold:{choice:[0.4],when:{method.task_contrast.weight:0.1}}}}}"
)
ALIGN, CONTRAST = "method.layer_alignment.weight", "method.task_contrast.weight"


def compose_pbt(pbt: str, more: str = "search:random") -> SweepPlan:
    return SweepPlan.compose([f"+tune={{{SEARCHED},scheduler:pbt,{more},pbt:{{{pbt}}}}}"])


def test_options_are_read() -> None:
    pbt = compose_pbt(f"keys:[{ALIGN}],every:2,share:0.5,factors:[0.5,2],resample:0").config.pbt
    assert (pbt.keys, pbt.every, pbt.share) == ((ALIGN,), 2, 0.5)
    assert (pbt.factors, pbt.resample) == ((0.5, 2.0), 0.0)


@pytest.mark.parametrize(
    ("pbt", "message"),
    [
        ("", r"scheduler=pbt has no pbt\.keys"),
        (
            "keys:[method.prompt_length]",
            r"pbt\.keys: method\.prompt_length is not in space; it has",
        ),
        ("keys:[method.task_start]", r"method\.task_start has values \['same', 'own'\]; only num"),
        (
            f"keys:[{CONTRAST}]",
            rf"{CONTRAST} changes between tasks, but method\.task_contrast\.thresh",
        ),
        (f"keys:[{ALIGN},{ALIGN}]", r"tune\.pbt: keys=.* must name none twice"),
        (f"keys:[{ALIGN}],every:0", r"tune\.pbt: every=0 must be at least 1"),
        (f"keys:[{ALIGN}],share:0.6", r"tune\.pbt: share=0\.6 must be above 0 and at most 0\.5"),
        (f"keys:[{ALIGN}],share:0.0", r"tune\.pbt: share=0\.0"),
        (f"keys:[{ALIGN}],resample:1.5", r"tune\.pbt: resample=1\.5 must be from 0 to 1"),
        (f"keys:[{ALIGN}],factors:[]", r"tune\.pbt: factors=\[\] must be numbers above 0"),
        (f"keys:[{ALIGN}],factors:[-1]", r"tune\.pbt: factors=\[-1\.0\] must be numbers above 0"),
        (f"keys:[{ALIGN}],evry:1", r"unknown key tune\.pbt\.evry; did you mean tune\.pbt\.every"),
    ],
)
def test_a_wrong_option_is_named(pbt: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_pbt(pbt)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("search:optuna", r"scheduler=pbt has search=optuna; it takes search=random or grid"),
        ("search:random,seeds:[0,1]", r"scheduler=pbt has seeds=\[0, 1\]; it takes one"),
        ("search:random,methods:{lpi:[],maple:[]}", r"scheduler=pbt has 2 methods; it takes one"),
    ],
)
def test_an_unsupported_sweep_is_refused(more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_pbt(f"keys:[{ALIGN}]", more)


def test_one_of_several_methods_is_taken() -> None:
    made = compose_pbt(f"keys:[{ALIGN}]", "search:random,methods:{lpi:[],maple:[]},only:[lpi]")
    assert [base.label for base in made.bases] == ["lpi"]


def test_a_models_stage_has_no_population() -> None:
    tune = "+tune={space:{a:{choice:[1,2]}},search:random,scheduler:pbt,pbt:{keys:[a]}}"
    with pytest.raises(ConfigError, match=r"tune\.scheduler=pbt compares trials after each task"):
        SweepPlan.compose(["experiment=mask_vae", tune, "tune.metric=[held_out_iou]"])
