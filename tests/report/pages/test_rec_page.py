"""Recalls of boxes by split: what the page's tables and the terminal's lines say."""

from typing import Any

from system.report.formatting import DASH, Footnotes
from system.report.metrics_view import MetricsView
from system.report.pages.rec_page import COLUMNS, split_lines, split_tables
from system.results.rec_recalls import METRICS


def recalls(value: float | None) -> dict[str, float | None]:
    return dict.fromkeys(METRICS, value)


def split(value: float, of_food: float | None, groups: tuple[str, ...]) -> dict[str, Any]:
    return {
        "all": recalls(value),
        "average": recalls(of_food),
        "per_task": {"animal": recalls(value), "food": recalls(of_food)},
        "per_super_category": {name: recalls(value) for name in groups},
        "per_size": {name: recalls(value) for name in ("small", "large")},
        "sizes": {"small": 2, "large": 1},
        "expressions": 3,
    }


def metrics(*groups: str) -> MetricsView:
    why = "task 'food' has no expression in split 'testA'"
    before = {"val": split(10.0, 20.0, groups), "testA": split(30.0, None, groups)}
    after = {"val": split(50.0, 60.0, groups), "testA": split(70.0, None, groups)}
    undefined = {
        f"{path}.testA.{key}": why
        for path in ("splits", "zero_shot.splits")
        for key in ("average", "per_task.food")
    }
    return MetricsView({"splits": after, "zero_shot": {"splits": before}, "undefined": undefined})


def test_each_split_has_its_table_before_and_after() -> None:
    """Figures of the wrong split, or the wrong way round, would be published."""
    tables = split_tables(metrics("animal", "food"), Footnotes())
    assert list(tables) == ["val", "testA"]
    assert dict(tables["val"]) == {
        "all expressions, IoU": ["10.0 → 50.0"] * len(COLUMNS),
        "all expressions, GIoU": ["10.0 → 50.0"] * len(COLUMNS),
        **{f"all expressions, IoU 0.{n}": ["10.0 → 50.0", "", "", ""] for n in (6, 7, 8, 9)},
        "small objects (2)": ["10.0 → 50.0"] * len(COLUMNS),
        "large objects (1)": ["10.0 → 50.0"] * len(COLUMNS),
        "mean of the tasks": ["20.0 → 60.0"] * len(COLUMNS),
        "animal": ["10.0 → 50.0"] * len(COLUMNS),
        "food": ["20.0 → 60.0"] * len(COLUMNS),
    }
    assert "testA R@1: 30.0 zero-shot, 70.0 trained" in list(split_lines(metrics()))


def test_super_categories_are_listed_where_they_are_not_the_tasks() -> None:
    rows = dict(split_tables(metrics("person"), Footnotes())["val"])
    assert rows["super-category person"] == ["10.0 → 50.0"] * len(COLUMNS)


def test_what_is_undefined_is_a_dash_with_its_reason() -> None:
    """Never 0, which would be a result."""
    notes = Footnotes()
    rows = dict(split_tables(metrics(), notes)["testA"])
    assert rows["food"] == [f"{DASH} (1) → {DASH} (1)"] * len(COLUMNS)
    assert notes.reasons == ["task 'food' has no expression in split 'testA'"]


def test_a_run_of_an_earlier_version_without_splits_has_no_table() -> None:
    assert split_tables(MetricsView({"average": recalls(1.0)}), Footnotes()) == {}


def test_one_split_of_several_tasks_has_a_table_and_no_lines_on_the_terminal() -> None:
    """There each task has its own line, and the splits' lines would say it twice."""
    one = {"test": split(50.0, 60.0, ())}
    content = {"splits": one, "zero_shot": {"splits": one}, "tasks": ["animal", "food"]}
    assert list(split_tables(MetricsView(content), Footnotes())) == ["test"]
    assert list(split_lines(MetricsView(content))) == []
    assert list(split_lines(MetricsView(content | {"tasks": ["all"]})))
