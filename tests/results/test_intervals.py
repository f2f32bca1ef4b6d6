"""Bootstrap intervals: they cover, they keep an image's queries together, and they repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from system.results.intervals import Interval, Queries, average, interval, resampled_averages
from system.results.metrics import GROUNDING, RETRIEVAL

METRICS = {metric.name: metric for metric in (*RETRIEVAL, *GROUNDING)}


def queries(**columns: list[object]) -> Queries:
    size = len(columns["directions"])
    given = {name: np.array(column) for name, column in columns.items()}
    return Queries(
        keys=np.array([str(n) for n in range(size)]),
        directions=given.pop("directions"),
        tasks=given.pop("tasks", np.zeros(size, dtype=np.int64)),
        units=given.pop("units", np.array([str(n) for n in range(size)])),
        columns={name: column.astype(np.float64) for name, column in given.items()},
    )


def of(values: NDArray[np.float64], tasks: NDArray[np.int64], **more: object) -> Interval:
    units = more.pop("units", np.arange(len(values)).astype(str))
    return interval(resampled_averages(values[:, None], tasks, units, **more)[:, 0])  # type: ignore[arg-type]


def test_values_of_queries_are_those_of_their_metrics() -> None:
    found = queries(
        directions=["t2i", "t2i", "i2t", "rec", "rec"],
        rank=[1, 6, 2, 5, np.nan],
        rank_giou=[np.nan, np.nan, np.nan, 1, np.nan],
        average_precision_10=[1.0, 1 / 6, 0.25, np.nan, np.nan],
    )
    nan = np.nan
    for name, expected in {
        "t2i_r1": [100, 0, nan, nan, nan],
        "t2i_r10": [100, 100, nan, nan, nan],
        "t2i_map10": [100, 100 / 6, nan, nan, nan],
        "i2t_r5": [nan, nan, 100, nan, nan],
        "rec_r5": [nan, nan, nan, 100, 0],
        "rec_r1_giou": [nan, nan, nan, 100, 0],
        "rec_ub": [nan, nan, nan, 100, 0],
    }.items():
        np.testing.assert_allclose(found.values([METRICS[name]])[:, 0], expected, err_msg=name)


def test_the_average_counts_tasks_alike() -> None:
    values, tasks = np.array([100.0, 0, 0, 0, 100]), np.array([0, 0, 0, 0, 1])
    assert average(values[:, None], tasks).tolist() == [62.5]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_resampled_averages_equal_a_loop_over_the_same_draws(seed: int) -> None:
    """One resampled test set at a time, one image at a time."""
    rng = np.random.default_rng(seed)
    tasks, images = np.sort(rng.integers(0, 3, 30)), rng.integers(0, 5, 30)
    units = np.array([f"{task}/{image}" for task, image in zip(tasks, images, strict=True)])
    values = rng.uniform(0, 100, (30, 2))
    found = resampled_averages(values, tasks, units, resamples=4, seed=seed)
    draws = np.random.default_rng(seed)
    expected = np.zeros((4, 2))
    for task in np.unique(tasks):
        names = np.unique(units[tasks == task])
        chosen = draws.integers(0, len(names), (4, len(names)))
        for row in range(4):
            of_row = np.concatenate([values[units == names[n]] for n in chosen[row]])
            expected[row] += of_row.mean(axis=0) / len(np.unique(tasks))
    np.testing.assert_allclose(found, expected)


def test_the_same_seed_has_the_same_interval_and_another_one_nearly() -> None:
    rng = np.random.default_rng(0)
    values, tasks = 100.0 * rng.random(400), np.arange(400) % 4
    assert of(values, tasks) == of(values, tasks)
    other = of(values, tasks, seed=1)
    assert other != of(values, tasks)
    assert other.low == pytest.approx(of(values, tasks).low, abs=1)


def test_intervals_cover_the_true_average() -> None:
    """95 of 100 of them, up to chance: of tasks of different size, difficulty and clustering."""
    rng = np.random.default_rng(5)
    chances, images = np.array([0.2, 0.5, 0.8]), (40, 80, 60)
    truth, covered, narrow = 100 * chances.mean(), 0, 0
    for _ in range(200):
        tasks = np.repeat([0, 1, 2], [5 * n for n in images])
        units = np.repeat(np.arange(sum(images)), 5)
        # Captions of an image mostly share its fate.
        fate = rng.random(sum(images))[units]
        own = rng.random(len(units))
        hit = np.where(rng.random(len(units)) < 0.8, fate, own) < chances[tasks]
        values = np.where(hit, 100.0, 0.0)
        found = of(values, tasks, units=units.astype(str), resamples=400)
        covered += found.low <= truth <= found.high
        alone = of(values, tasks, resamples=400)
        narrow += alone.low <= truth <= alone.high
    assert 180 <= covered <= 199  # 190 expected
    assert narrow < 165  # captions as if they were independent: far too sure


def test_a_paired_difference_is_surer_than_its_two_sides() -> None:
    """Two methods fail at the same queries: what is left between them is small, and certain."""
    rng = np.random.default_rng(2)
    difficulty, tasks = rng.random(600), np.arange(600) % 3
    first = np.where(difficulty < 0.5, 100.0, 0.0)
    second = np.where(difficulty < 0.46, 100.0, 0.0)
    alone, paired = of(first, tasks), of(first - second, tasks)
    assert paired.low > 0
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_metrics_share_the_drawn_images() -> None:
    """A sum of recalls has an interval only if all of them are of one resampled test set."""
    values = np.array([[100.0, 0.0], [0.0, 100.0], [100.0, 0.0]])
    drawn = resampled_averages(values, np.zeros(3, dtype=np.int64), np.array(["a", "b", "c"]))
    np.testing.assert_allclose(drawn.sum(axis=1), 100.0)
    assert np.ptp(drawn[:, 0]) > 50


def test_columns_have_the_names_of_the_ranks_file() -> None:
    for name, column in {
        "i2t_r5": "rank",
        "i2t_map10": "average_precision_10",
        "rec_ub_giou": "rank_giou",
        "rec_r1_iou70": "rank_iou70",
    }.items():
        assert METRICS[name].column == column
