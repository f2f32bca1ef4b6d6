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
