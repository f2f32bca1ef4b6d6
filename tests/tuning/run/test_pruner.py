"""Which trials end early follows from their figures alone, whatever the clock did."""

import itertools

import numpy as np
import pytest

from tuning.run.pruner import Course, Rule, verdicts

ASHA = Rule("asha", grace_tasks=1, reduction=2, tasks=4)


def courses(*figures: list[float | None]) -> list[Course]:
    return [Course(list(row), ended=len(row) == 4) for row in figures]


@pytest.mark.parametrize(
    ("rule", "rungs"),
    [
        (Rule("asha", 1, 2, 12), [1, 2, 4, 8]),
        (Rule("asha", 1, 3, 12), [1, 3, 9]),
        (Rule("asha", 2, 2, 4), [2]),
        (Rule("asha", 5, 2, 4), []),
        (Rule("median", 2, 2, 5), [2, 3, 4]),
        (Rule("none", 1, 2, 12), []),
    ],
)
def test_rungs(rule: Rule, rungs: list[int]) -> None:
    """A rung at the last task would throw away a trial that is through."""
    assert rule.rungs == rungs


def test_the_cutoff_is_ray_tunes() -> None:
    """Settings that users know from ASHA in Ray Tune must mean the same here."""
    assert ASHA.cutoff([]) is None
    assert ASHA.cutoff([1.0, 2.0, 4.0]) == np.percentile([1.0, 2.0, 4.0], 50)
    assert Rule("asha", 1, 4, 12).cutoff([1.0, 2.0, 4.0]) == np.percentile([1.0, 2.0, 4.0], 75)


def test_the_first_trial_is_never_stopped_and_a_worse_one_is() -> None:
    assert verdicts(ASHA, courses([10, 10, 10, 10], [9], [11])) == [None, 1, None]


def test_a_trial_is_compared_at_the_same_task_only() -> None:
    """An average over more tasks is another figure."""
    assert verdicts(ASHA, courses([50, 10, 10, 10], [60, 9], [40])) == [None, 2, 1]


def test_a_stopped_trial_still_counts_at_the_rungs_it_reached() -> None:
    """Or each weak trial would lower the bar for the next."""
    stopped = verdicts(ASHA, courses([10, 10, 10, 10], [4], [8], [9]))
    assert stopped == [None, 1, None, None]  # medians of 10; 10, 4; 10, 4, 8


def test_nobody_is_judged_before_those_ahead_of_it_have_come_as_far() -> None:
    """Else the verdict would depend on which of two trials was faster."""
    assert verdicts(ASHA, courses([], [1, 1])) == [None, None]
    assert verdicts(ASHA, courses([10], [1, 1])) == [None, 1]


def test_a_failed_trial_holds_nobody_up() -> None:
    failed = Course([], ended=True)
    assert verdicts(ASHA, [failed, *courses([10], [9])]) == [None, None, 1]


def test_a_trial_without_figures_is_neither_judged_nor_waited_for() -> None:
    """Joint training evaluates at the end alone."""
    assert verdicts(ASHA, courses([None, None, None, 30], [10], [9])) == [None, None, 1]


def test_median_stopping_needs_three_before_it() -> None:
    rule = Rule("median", 1, 2, 3)
    ran: list[list[float | None]] = [[float(v)] for v in (10, 20, 5, 14, 16)]
    assert verdicts(rule, courses(*ran)) == [None, None, None, None, None]
    assert verdicts(rule, courses(*ran, [12])) == [None, None, None, None, None, 1]


def test_the_order_in_which_figures_arrive_changes_nothing() -> None:
    """A sweep that is interrupted, or runs on another machine, must stop the same trials."""
    rng = np.random.default_rng(0)
    finals = [rng.uniform(0, 100, 4).tolist() for _ in range(4)]
    expected: set[tuple[int | None, ...]] = set()
    for order in itertools.permutations(range(4)):
        ran = [Course() for _ in finals]
        seen: list[list[int | None]] = []
        for index in order:  # one trial runs to its end after the other
            for figure in finals[index]:
                ran[index].figures.append(figure)
                seen.append(verdicts(ASHA, ran))
        for earlier, later in itertools.pairwise(seen):
            assert all(a is None or a == b for a, b in zip(earlier, later, strict=True))
        expected.add(tuple(seen[-1]))
    assert len(expected) == 1
