"""Task orders are what an ablation says they are, and the same wherever they are computed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.config.schema import OrderPolicy
from system.stream.task_order import ORDER_POLICIES, TaskOrder

TASKS = ("food", "sports", "kitchen", "animal", "person")
PINNED = ("sports", "person", "animal", "food", "kitchen")  # by sha256sum of 0:food and so on
PLACES = {"food": 0.0, "sports": 5.0, "kitchen": 1.0, "animal": 2.5, "person": 4.0}


def alike(one: str, other: str) -> float:
    return -abs(PLACES[one] - PLACES[other])


def order_by(policy: OrderPolicy, seed: int = 0) -> TaskOrder:
    return TaskOrder(policy, seed, alike)


def test_given_and_reversed() -> None:
    assert order_by("given").order(TASKS) == TASKS
    assert order_by("reversed").order(TASKS) == TASKS[::-1]


def test_similarity_goes_from_each_task_to_the_one_most_like_it() -> None:
    assert order_by("similarity").order(TASKS) == ("food", "kitchen", "animal", "person", "sports")


def test_equally_alike_tasks_come_as_given() -> None:
    """Else the order would hang on how the tasks are stored."""
    equal = TaskOrder("similarity", alike=lambda one, other: 0.5)
    assert equal.order(TASKS) == TASKS


def test_shuffled_is_fixed_by_the_seed() -> None:
    """A run that goes on elsewhere must find the same order: pinned, not only repeated."""
    assert order_by("shuffled", 0).order(TASKS) == PINNED
    assert len({order_by("shuffled", seed).order(TASKS) for seed in range(20)}) > 10


def test_an_appended_task_leaves_the_others_places_alone() -> None:
    order = order_by("shuffled", 3).order(TASKS)
    longer = order_by("shuffled", 3).order((*TASKS, "vehicle"))
    assert tuple(task for task in longer if task != "vehicle") == order


def test_similarity_without_a_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="needs alike"):
        TaskOrder("similarity")


@given(
    st.sampled_from(ORDER_POLICIES),
    st.lists(st.sampled_from(TASKS), unique=True),
    st.integers(0, 9),
)
def test_every_policy_orders_each_task_once(
    policy: OrderPolicy, tasks: list[str], seed: int
) -> None:
    found = order_by(policy, seed).order(tasks)
    assert sorted(found) == sorted(tasks)
