"""Settings that were stopped early are compared with the others at the same task and seeds."""

from typing import Any

from tuning.report.common_figures import common_figures


def trial(setting: str, seed: int, *figures: float | None) -> dict[str, Any]:
    return {"setting": setting, "seed": seed, "figure_by_task": list(figures)}


def test_after_as_many_tasks_as_all_have() -> None:
    """The average over more tasks is another figure: it would make the stopped ones look good."""
    found = common_figures(
        [trial("a", 0, 50, 30, 20), trial("b", 0, 40, 25), trial("c", 0, 45, 35)]
    )
    assert found.tasks == 2
    assert found.of_setting == {"a": 30, "b": 25, "c": 35}


def test_over_the_seeds_that_all_have() -> None:
    rows = [trial("a", 0, 50), trial("a", 1, 90), trial("b", 0, 40), trial("b", 1)]
    assert common_figures(rows).of_setting == {"a": 50, "b": 40}


def test_means_over_seeds() -> None:
    rows = [trial("a", 0, 50), trial("a", 1, 60), trial("b", 0, 40), trial("b", 1, 20)]
    assert common_figures(rows).of_setting == {"a": 55, "b": 30}


def test_what_has_no_figure_there_is_left_out() -> None:
    rows = [trial("joint", 0, None, 40), trial("b", 0, 40), trial("failed", 0)]
    assert common_figures(rows).of_setting == {"b": 40}
    assert common_figures([trial("failed", 0)]).of_setting == {}
