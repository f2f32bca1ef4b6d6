"""Pruning depends on the trials' scores alone, never on timing."""

import itertools

import numpy as np
import pytest

from tuning.run.pruner import LearningCurve, PruningRule, pruned_after

ASHA = PruningRule("asha", grace_tasks=1, reduction=2, tasks=4)


def curves(*scores: list[float | None]) -> list[LearningCurve]:
    return [LearningCurve(list(row), ended=len(row) == 4) for row in scores]


@pytest.mark.parametrize(
    ("rule", "rungs"),
    [
        (PruningRule("asha", 1, 2, 12), [1, 2, 4, 8]),
        (PruningRule("asha", 1, 3, 12), [1, 3, 9]),
        (PruningRule("asha", 2, 2, 4), [2]),
        (PruningRule("asha", 5, 2, 4), []),
        (PruningRule("median", 2, 2, 5), [2, 3, 4]),
        (PruningRule("none", 1, 2, 12), []),
    ],
)
def test_rungs(rule: PruningRule, rungs: list[int]) -> None:
    """A rung at the last task would throw away a finished trial."""
    assert rule.rungs == rungs


def test_the_cutoff_is_ray_tunes() -> None:
    """Options that users know from Ray Tune's ASHA must mean the same here."""
    assert ASHA.cutoff([]) is None
    assert ASHA.cutoff([1.0, 2.0, 4.0]) == np.percentile([1.0, 2.0, 4.0], 50)
    assert PruningRule("asha", 1, 4, 12).cutoff([1.0, 2.0, 4.0]) == np.percentile(
        [1.0, 2.0, 4.0], 75
    )


def test_the_first_trial_is_never_stopped_and_a_worse_one_is() -> None:
    assert pruned_after(ASHA, curves([10, 10, 10, 10], [9], [11])) == [None, 1, None]


def test_a_trial_is_compared_at_the_same_task_only() -> None:
    """Averages over different numbers of tasks are not comparable."""
    assert pruned_after(ASHA, curves([50, 10, 10, 10], [60, 9], [40])) == [None, 2, 1]


def test_a_stopped_trial_still_counts_at_the_rungs_it_reached() -> None:
    """Or each weak trial would lower the bar for the next."""
    stopped = pruned_after(ASHA, curves([10, 10, 10, 10], [4], [8], [9]))
    assert stopped == [None, 1, None, None]  # medians of 10; 10, 4; 10, 4, 8


def test_no_trial_is_stopped_before_those_ahead_of_it_have_come_as_far() -> None:
    """Else the decision would depend on which of two trials was faster."""
    assert pruned_after(ASHA, curves([], [1, 1])) == [None, None]
    assert pruned_after(ASHA, curves([10], [1, 1])) == [None, 1]


def test_a_failed_trial_is_not_waited_for() -> None:
    failed = LearningCurve([], ended=True)
    assert pruned_after(ASHA, [failed, *curves([10], [9])]) == [None, None, 1]


def test_a_trial_without_figures_is_neither_judged_nor_waited_for() -> None:
    """Joint training is evaluated at the end only."""
    assert pruned_after(ASHA, curves([None, None, None, 30], [10], [9])) == [None, None, 1]


def test_median_stopping_needs_three_before_it() -> None:
    rule = PruningRule("median", 1, 2, 3)
    ran: list[list[float | None]] = [[float(v)] for v in (10, 20, 5, 14, 16)]
    assert pruned_after(rule, curves(*ran)) == [None, None, None, None, None]
    assert pruned_after(rule, curves(*ran, [12])) == [None, None, None, None, None, 1]


def test_the_order_in_which_figures_arrive_changes_nothing() -> None:
    """A sweep that is interrupted, or runs on another machine, must stop the same trials."""
    rng = np.random.default_rng(0)
    finals = [rng.uniform(0, 100, 4).tolist() for _ in range(4)]
    expected: set[tuple[int | None, ...]] = set()
    for order in itertools.permutations(range(4)):
        ran = [LearningCurve() for _ in finals]
        seen: list[list[int | None]] = []
        for index in order:  # one trial runs to its end after the other
            for score in finals[index]:
                ran[index].scores.append(score)
                seen.append(pruned_after(ASHA, ran))
        for earlier, later in itertools.pairwise(seen):
            assert all(a is None or a == b for a, b in zip(earlier, later, strict=True))
        expected.add(tuple(seen[-1]))
    assert len(expected) == 1
