"""Values as text: signs, times, and dashes that refer to one footnote per reason."""

import pytest

from system.report.formatting import DASH, MINUS, Footnotes, duration, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.25, "+1.2"), (-1.26, f"{MINUS}1.3"), (0.04, "0.0"), (-0.04, "0.0"), (0.0, "0.0")],
)
def test_a_difference_has_its_sign_unless_it_rounds_to_zero(value: float, text: str) -> None:
    """A zero with a minus reads as a loss."""
    assert signed(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42.04, "42.0 s"), (59.96, "60.0 s"), (187, "3 min 07 s"), (3599.6, "1 h 00 min")],
)
def test_a_length_of_time_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_values_of_one_reason_share_a_footnote() -> None:
    """Else a page of twelve undefined tasks ends in twelve equal footnotes."""
    notes = Footnotes()
    assert notes.percent(12.34, "unused").text == "12.3"
    assert notes.count(1234.0, "unused").text == "1,234"
    found = [notes.percent(None, "a"), notes.points(None, "b"), notes.count(None, "a")]
    assert [(value.text, value.note) for value in found] == [(DASH, 1), (DASH, 2), (DASH, 1)]
    assert notes.reasons == ["a", "b"]
