"""The comparison's arithmetic: mean and standard deviation over seeds, order, undefined values."""

import math
from typing import Any

import pytest

from tuning.report.charts.cost_charts import parameters_front
from tuning.report.comparison import MeanStd, common_scores, compare, short_names


def trial(label: str, seed: int, recall: float | None, **more: Any) -> dict[str, Any]:
    finished = recall is not None
    row: dict[str, Any] = {
        "setting": label,
        "method": label,
        "seed": seed,
        "status": "finished" if finished else "failed",
        "figure": recall,
        "average_t2i_r1": recall,
        "average_i2t_r1": recall,
        "forgetting_t2i_r1": 0.5 if finished else None,
        "forgetting_i2t_r1": None,
        "trainable_parameters": 1072 if finished else None,
        "trainable_parameters_per_task": 536 if finished else None,
        "seconds": 4.0 if finished else None,
        "seconds_per_task": 2.0 if finished else None,
        "learning_rate": 0.1,
        "values": "{}",
        "overrides": [f"method={label}"],
    }
    return row | more


def test_std_is_the_sample_standard_deviation() -> None:
    """The population's would make three seeds look more certain than they are."""
    found = MeanStd.of([10.0, 12.0, 14.0])
    assert (found.mean, found.std) == (12.0, 2.0)
    assert found.text() == "12.0 ± 2.0"


def test_one_seed_has_no_std_and_a_missing_score_no_mean() -> None:
    assert MeanStd.of([3.0]).text() == "3.0"
    assert math.isnan(MeanStd.of([3.0, None]).mean)
    assert MeanStd.of([3.0, None]).text() == MeanStd.of([]).text() == "–"  # noqa: RUF001


@pytest.mark.parametrize(("value", "text"), [(-0.04, "0.0"), (0.04, "0.0"), (-0.06, "-0.1")])
def test_what_rounds_to_zero_has_no_sign(value: float, text: str) -> None:
    assert MeanStd.of([value]).text() == text


def test_best_first_and_only_those_with_all_seeds_can_be_best() -> None:
    """A trial config that failed with two seeds of three may be a lucky one."""
    rows = [
        trial("weak", 0, 10.0),
        trial("weak", 1, 12.0),
        trial("strong", 0, 20.0),
        trial("strong", 1, 22.0),
        trial("lucky", 0, 90.0),
        trial("lucky", 1, None),
    ]
    comparison = compare(rows, seeds=2)
    assert [row.label for row in comparison.rows] == ["strong", "weak", "lucky"]
    assert comparison.best == "strong"
    assert [row.complete for row in comparison.rows] == [True, True, False]
    assert [row.label for row in parameters_front(comparison.rows)] == ["strong"]
    assert comparison.rows[2].status == "1 failed"
    assert comparison.rows[2].score.mean == 90.0


def test_values_stand_beside_their_trial_config() -> None:
    """`lpi-003` alone tells nobody which rank was the best."""
    values = '{"method.rank": 4, "method.layer_alignment.weight": 0.1, "a.b": null}'
    (row,) = compare([trial("lpi-003", 0, 20.0, values=values)], seeds=1).rows
    assert row.title == "lpi-003: rank=4, weight=0.1, b=null"


def test_short_names_still_tell_keys_apart() -> None:
    keys = ["method.rank", "method.layer_alignment.weight", "method.task_contrast.weight", "rank"]
    assert short_names(keys) == {
        "method.rank": "method.rank",
        "method.layer_alignment.weight": "layer_alignment.weight",
        "method.task_contrast.weight": "task_contrast.weight",
        "rank": "rank",
    }


def test_no_best_where_nothing_finished() -> None:
    assert compare([trial("a", 0, None)], seeds=1).best is None
    assert compare([], seeds=1).best is None


def scored(label: str, seed: int, *scores: float | None) -> dict[str, Any]:
    return {"setting": label, "seed": seed, "figure_by_task": list(scores)}


def test_common_scores_are_after_as_many_tasks_as_all_have() -> None:
    """Averages over different numbers of tasks would make stopped trial configs look good."""
    found = common_scores(
        [scored("a", 0, 50, 30, 20), scored("b", 0, 40, 25), scored("c", 0, 45, 35)]
    )
    assert found.tasks == 2
    assert found.by_config == {"a": 30, "b": 25, "c": 35}


def test_common_scores_are_over_the_seeds_that_all_have() -> None:
    rows = [scored("a", 0, 50), scored("a", 1, 90), scored("b", 0, 40), scored("b", 1)]
    assert common_scores(rows).by_config == {"a": 50, "b": 40}


def test_common_scores_are_means_over_seeds() -> None:
    rows = [scored("a", 0, 50), scored("a", 1, 60), scored("b", 0, 40), scored("b", 1, 20)]
    assert common_scores(rows).by_config == {"a": 55, "b": 30}


def test_a_trial_config_without_a_common_score_is_left_out() -> None:
    rows = [scored("joint", 0, None, 40), scored("b", 0, 40), scored("failed", 0)]
    assert common_scores(rows).by_config == {"b": 40}
    assert common_scores([scored("failed", 0)]).by_config == {}
