"""A loss weight that changes from task to task, in LPI on either kind of frozen model."""

from typing import Any

import pytest
import torch

from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.methods.low_rank import LowRankConfig
from system.methods.parts import weight_at
from system.methods.prompts.lpi_diff_prompt import LpiDiffPromptConfig
from tests.methods.prompts.test_lpi import at_task

TERMS = ("layer_alignment", "task_contrast")


def test_the_last_of_a_list_holds_for_the_tasks_after_it() -> None:
    assert [weight_at((0.1, 0.4), task) for task in range(4)] == [0.1, 0.4, 0.4, 0.4]
    assert [weight_at(0.1, task) for task in range(2)] == [0.1, 0.1]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("task", [1, 2])
def test_a_task_has_the_terms_of_its_own_weight(term: str, task: int) -> None:
    """To the bit: a schedule run from scratch must repeat what a forked trial learned."""
    schedule = [0.3, 0.2, 0.7]
    section: dict[str, Any] = {term: {"weight": schedule}}
    alone: dict[str, Any] = {term: {"weight": schedule[task]}}
    similar = torch.eye(task + 1)
    terms = at_task(task, **section).regularisers(similar)
    assert set(terms) == set(TERMS)
    for name, value in at_task(task, **alone).regularisers(similar).items():
        assert torch.equal(value, terms[name])


def test_a_zero_in_a_list_leaves_the_term_out_at_that_task() -> None:
    section: dict[str, Any] = {"layer_alignment": {"weight": [0.1, 0.0, 0.1]}}
    found = [set(at_task(task, **section).regularisers(None)) for task in range(3)]
    assert found == [{"layer_alignment"}, set(), {"layer_alignment"}]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([], r"weight=\[\] is empty; give a number, or one for each task"),
        (-0.1, r"weight=-0\.1 must be at least 0"),
        ([0.1, -1], r"weight=\[0\.1, -1\.0\] must be at least 0"),
        (float("inf"), r"weight=inf must be at least 0 and finite"),
        ([0.1, float("inf")], r"weight=\[0\.1, inf\] must be at least 0 and finite"),
        (float("nan"), r"weight is NaN"),
        ([0.1, float("nan")], r"weight\[1\] is NaN"),
        ("much", r"weight='much' must be of type float; .* takes a float or a list of float"),
        ([0.1, "x"], r"weight\[1\]='x' must be of type float"),
        ({"a": 1}, r"weight=\{'a': 1\} must be of type float"),
    ],
)
def test_a_wrong_weight_is_one_error_that_names_it(term: str, weight: Any, message: str) -> None:
    section = {term: {"weight": weight}}
    with pytest.raises(ConfigError, match=rf"method.*{term}\.{message}"):
        parse_dataclass(LowRankConfig, section, "method")
    with pytest.raises(ConfigError, match=rf"method\.low_rank.*{term}\.{message}"):
        parse_dataclass(LpiDiffPromptConfig, {"generator": {}, "low_rank": section}, "method")
