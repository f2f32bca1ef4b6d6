"""Points of curves, from what a stream commits."""

from typing import Any

from system.loggers.points import Point, StreamCurves
from tests.loggers.logged_stream import EPOCHS, payload, row


def points(*payloads: dict[str, Any]) -> list[Point]:
    """Those of the last one of a stream's commits."""
    curves = StreamCurves(EPOCHS)
    return [list(curves.of(payload, index)) for index, payload in enumerate(payloads)][-1]


def test_curves_by_epoch_and_means_over_the_tasks_so_far() -> None:
    first = points(payload(0))
    assert Point("train/loss_contrastive", 0.5, 2) in first
    assert Point("train/images_per_second", 100.0, 1) in first
    assert Point("eval/t2i_r1", 2.0, 0) in first  # zero-shot: both tasks
    assert Point("eval/t2i_r1", 10.0, 1) in first  # the learned task alone
    assert Point("eval/t2i_r1", 15.0, 2) in points(payload(0), payload(1))


def test_an_undefined_value_has_no_point() -> None:
    """A mean over what is left would look better than it is."""
    rows = [row(1, 0, 5.0), row(1, 1, None)]
    nothing: dict[str, Any] = {"log": [], "rows": []}
    assert points(nothing, {"log": [], "rows": rows}) == []


def test_held_out_benchmarks_have_curves_of_their_own() -> None:
    """In the stream's means they would look like tasks."""
    held_out = [{**row(-1, 0, 70.0), "held_out": "zoo"}, {**row(0, 0, 65.0), "held_out": "zoo"}]
    found = points({**payload(0), "held_out": held_out})
    apart = [point for point in found if point.name.startswith("held_out/")]
    assert apart == [Point("held_out/zoo/t2i_r1", 70.0, 0), Point("held_out/zoo/t2i_r1", 65.0, 1)]
    assert [point for point in found if point not in apart] == points(payload(0))
