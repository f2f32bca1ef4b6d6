"""The accuracy matrix as pages read it: what was not measured is never a number."""

from dataclasses import replace

from system.report.matrix_view import Cell, MatrixView, mean

VIEW = MatrixView(
    tasks=("a", "b", "c"),
    trained=(-1, 0, 1),
    metrics=("t2i_r1",),
    cells={
        ("t2i_r1", 1, 0): Cell(10.0, None),
        ("t2i_r1", 1, 1): Cell(30.0, None),
        ("t2i_r1", 0, 0): Cell(None, "no query"),
    },
)


def test_a_cell_that_was_never_measured_says_so() -> None:
    assert VIEW.cell("t2i_r1", 0, 2) == Cell(None, "not evaluated")
    assert VIEW.cell("t2i_r1", 0, 0).reason == "no query"
    assert VIEW.row("t2i_r1", 1) == [10.0, 30.0, None]
    assert VIEW.diagonal("t2i_r1") == [None, 30.0, None]


def test_a_task_without_queries_is_left_out() -> None:
    """As in metrics.json: RefCOCO's testA would else have no average at all."""
    view = replace(VIEW, unjudged=frozenset({("t2i_r1", 2)}))
    assert view.average_so_far("t2i_r1", 1, 2) == 20.0
    assert view.diagonal("t2i_r1") == [None, 30.0]


def test_an_average_over_an_undefined_value_is_undefined() -> None:
    """The mean of the rest would look better than it is."""
    assert VIEW.average_so_far("t2i_r1", 1, 1) == 20.0
    assert VIEW.average_so_far("t2i_r1", 1, 2) is None
    assert mean([]) is None
