"""The accuracy matrix as pages read it: what was not measured is never a number."""

import math

from system.report.matrix_view import Cell, MatrixView, mean
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow

ROWS = (
    MatrixRow(-1, 0, "t2i_r1", 5.0, 9),
    MatrixRow(0, 0, "t2i_r1", math.nan, 9, "no query"),
    MatrixRow(1, 0, "t2i_r1", 10.0, 9),
    MatrixRow(1, 1, "t2i_r1", 30.0, 9),
)
VIEW = MatrixView(AccuracyMatrix("abc", ROWS))


def test_a_cell_that_was_never_measured_says_so() -> None:
    assert VIEW.cell("t2i_r1", 0, 2) == Cell(None, "not evaluated")
    assert VIEW.cell("t2i_r1", 0, 0).reason == "no query"
    assert VIEW.row("t2i_r1", 1) == [10.0, 30.0, None]
    assert VIEW.diagonal("t2i_r1") == [None, 30.0, None]


def test_a_task_without_queries_is_left_out() -> None:
    """As in metrics.json: RefCOCO's testA would else have no average at all."""
    empty = MatrixRow(1, 2, "t2i_r1", math.nan, 0, "no query")
    view = MatrixView(AccuracyMatrix("abc", (*ROWS, empty)))
    assert view.average_so_far("t2i_r1", 1, 2) == 20.0
    assert view.diagonal("t2i_r1") == [None, 30.0]


def test_an_average_over_an_undefined_value_is_undefined() -> None:
    """The mean of the rest would look better than it is."""
    assert VIEW.average_so_far("t2i_r1", 1, 1) == 20.0
    assert VIEW.average_so_far("t2i_r1", 1, 2) is None
    assert mean([]) is None
