"""The time left, estimated only once it means something."""

import pytest

from system.report.terminal.bars import TimeLeft, joined, time_left_text


def test_time_left_only_when_it_means_something() -> None:
    """Else the first seconds promise nonsense."""
    seconds = [0.0]
    left = TimeLeft(after=1.0, clock=lambda: seconds[0])
    assert left.look(4.0, 12) is None  # the first look: resumed after four tasks
    seconds[0] = 50
    assert left.look(4.9, 12) is None  # less than a task since then
    seconds[0] = 100
    assert left.look(5.0, 12) == 700.0
    assert left.look(12.0, 12) == 0.0
    seconds[0] = 101
    assert left.look(3.0, 12) is None  # begun anew


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.4, ""), (42.4, "about 42 s left"), (61.0, "about 1 min 01 s left")],
)
def test_time_left_is_rounded_and_left_out_at_the_end(seconds: float | None, text: str) -> None:
    assert time_left_text(seconds) == text
    assert joined("loss 0.1", text) == ("loss 0.1, " + text if text else "loss 0.1")
