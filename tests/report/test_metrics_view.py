"""Look-ups in metrics.json: an undefined value is None with the most specific reason."""

import math

import pytest

from system.report.metrics_view import MetricsView, headline_metrics

VIEW = MetricsView(
    {
        "average": {"t2i_r1": 12, "i2t_r1": None, "t2i_r5": math.nan},
        "replays": True,
        "undefined": {"forgetting": "one task", "average.i2t_r1": "no text", "t2i_r5": "no query"},
    }
)


@pytest.mark.parametrize(
    "path", [("average", "i2t_r1"), ("average", "t2i_r5"), ("average", "none"), ("replays",)]
)
def test_only_finite_numbers_are_numbers(path: tuple[str, ...]) -> None:
    """A null or a flag that became 0 or 1 would be read as a measurement."""
    assert VIEW.number(*path) is None
    assert VIEW.number("average", "t2i_r1") == 12.0


def test_the_most_specific_reason_counts() -> None:
    assert VIEW.reason("forgetting", "t2i_r1") == "one task"
    assert VIEW.reason("average", "i2t_r1") == "no text"
    assert VIEW.reason("average", "t2i_r5") == "no query"
    assert "no value for oracle.t2i_r1" in VIEW.reason("oracle", "t2i_r1")
    assert "not written" in MetricsView({}).reason("average", "t2i_r1")


def test_grounding_leads_by_boxes_and_an_unknown_run_by_recall() -> None:
    assert headline_metrics(["rec_r1", "rec_r5"]) == ("rec_r1",)
    assert headline_metrics([]) == ("t2i_r1", "i2t_r1")


def test_texts_at_several_images_are_counted_for_all_tasks_and_for_each() -> None:
    """A recall of 0 that no method could raise reads like a method that finds nothing."""

    def repeated(texts: int, several: int, t2i: float, i2t: float) -> dict[str, object]:
        highest = {"t2i_r1": t2i, "i2t_r1": i2t}
        return {"texts": texts, "at_several_images": several, "highest": highest}

    tasks = {"cat": repeated(8, 8, 12.5, 0.0), "dog": repeated(4, 0, 100.0, 100.0)}
    found = {**repeated(12, 8, 56.25, 50.0), "per_task": tasks}
    lines = MetricsView({"evaluation": {"repeated_texts": found}}).repeated_texts()
    assert lines[0].startswith("8 of 12 test texts stand at several images of the gallery: recall")
    assert "56.2 (text to image) and 50.0 (image to text) on average over tasks" in lines[0]
    assert [line.partition(" test")[0] for line in lines[1:]] == ["cat: 8 of 8"]
    none = {**repeated(4, 0, 100.0, 100.0), "per_task": {"dog": tasks["dog"]}}
    assert MetricsView({"evaluation": {"repeated_texts": none}}).repeated_texts() == []
    assert MetricsView({}).repeated_texts() == []
