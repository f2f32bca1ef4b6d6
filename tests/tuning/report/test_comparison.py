"""The table's arithmetic: means and spreads over seeds, order, what is undefined."""

import math
from typing import Any

import pytest

from tuning.report.charts.cost_charts import parameters_front
from tuning.report.comparison import Spread, compare, short_names, to_latex, to_markdown
from tuning.report.measure import Measure

RECALL = Measure("stream", "average recall", "%", 2)


def trial(setting: str, seed: int, recall: float | None, **more: Any) -> dict[str, Any]:
    finished = recall is not None
    row: dict[str, Any] = {
        "setting": setting,
        "method": setting,
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
        "overrides": [f"method={setting}"],
    }
    return row | more


def test_spread_is_the_sample_standard_deviation() -> None:
    """The population's would make three seeds look more certain than they are."""
    spread = Spread.of([10.0, 12.0, 14.0])
    assert (spread.mean, spread.std) == (12.0, 2.0)
    assert spread.text() == "12.0 ± 2.0"


def test_one_seed_has_no_spread_and_a_missing_figure_no_mean() -> None:
    assert Spread.of([3.0]).text() == "3.0"
    assert math.isnan(Spread.of([3.0, None]).mean)
    assert Spread.of([3.0, None]).text() == Spread.of([]).text() == "–"  # noqa: RUF001


@pytest.mark.parametrize(("value", "text"), [(-0.04, "0.0"), (0.04, "0.0"), (-0.06, "-0.1")])
def test_what_rounds_to_zero_has_no_sign(value: float, text: str) -> None:
    assert Spread.of([value]).text() == text


def test_best_first_and_only_those_with_all_seeds_can_be_best() -> None:
    """A setting that failed with two seeds of three may be a lucky one."""
    rows = [
        trial("weak", 0, 10.0),
        trial("weak", 1, 12.0),
        trial("strong", 0, 20.0),
        trial("strong", 1, 22.0),
        trial("lucky", 0, 90.0),
        trial("lucky", 1, None),
    ]
    comparison = compare(rows, seeds=2)
    assert [row.setting for row in comparison.rows] == ["strong", "weak", "lucky"]
    assert comparison.best == "strong"
    assert [row.complete for row in comparison.rows] == [True, True, False]
    assert [row.setting for row in parameters_front(comparison.rows)] == ["strong"]
    assert comparison.rows[2].status == "1 failed"
    assert comparison.rows[2].figure.mean == 90.0


def test_drawn_values_stand_beside_their_setting() -> None:
    """`lpi-003` alone tells nobody which rank was the best."""
    values = '{"method.rank": 4, "method.layer_alignment.weight": 0.1, "a.b": null}'
    (row,) = compare([trial("lpi-003", 0, 20.0, values=values)], seeds=1).rows
    assert row.title == "lpi-003: rank=4, weight=0.1, b=null"


def test_a_fork_says_where_it_began() -> None:
    fork = trial("b", 0, 31.0, parent="a", forked_after=1, values='{"weight": [0.1, 0.08]}')
    table = to_markdown(compare([trial("a", 0, 30.0), fork], seeds=1), RECALL)
    assert "| b: weight=[0.1, 0.08]; from a after 1 task |" in table
    assert "| a |" in table


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


def test_markdown_has_a_row_a_setting() -> None:
    text = to_markdown(compare([trial("lpi", 0, 20.0), trial("lpi", 1, 22.0)], seeds=2), RECALL)
    header, rule, row = text.strip().splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| lpi | 21.0 ± 1.4 | 21.0 ± 1.4 | 0.5 ± 0.0 |")
    assert "1,072" in row


def test_a_stream_of_boxes_is_shown_by_its_own_recall() -> None:
    """Also where nothing finished: columns of text and image would be of another kind of run."""
    for figure in (20.0, None):
        own = {"average_rec_r1": figure, "forgetting_rec_r1": figure}
        row = {key: value for key, value in trial("lpi", 0, figure).items() if "2" not in key}
        header, _, line = to_markdown(compare([row | own], seeds=1), RECALL).splitlines()
        assert header.startswith("| setting | rec R@1 | rec forgetting | parameters |")
        assert line.startswith("| lpi | 20.0 | 20.0 |" if figure else "| lpi | – | – |")  # noqa: RUF001


def test_latex_escapes_names_and_keeps_its_own_signs() -> None:
    """An underscore in a method's name must not stop the paper from compiling."""
    rows = [trial("zero_shot", 0, 20.0), trial("zero_shot", 1, 22.0)]
    text = to_latex(compare(rows, seeds=2), RECALL)
    assert r"zero\_shot & 21.0 $\pm$ 1.4 &" in text
    assert "–" not in text  # noqa: RUF001
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in lines}) == 1
