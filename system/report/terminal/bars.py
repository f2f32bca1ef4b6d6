"""Parts of the terminal's progress: bars on a terminal, plain lines elsewhere, time left."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from system.report.formatting import duration

SHORTEST_BASIS = 2.0  # seconds of work below which an estimate would jump about
Clock = Callable[[], float]  # seconds that never run backwards
B = TypeVar("B", bound="Bars")


class TimeLeft:
    """Estimates the time left from the work done since the first look.

    Args:
        after: units of work that must pass before there is an estimate at all.
        clock: seconds.
    """

    def __init__(self, after: float, clock: Clock = time.monotonic) -> None:
        self._after = after
        self._clock = clock
        self._start: tuple[float, float] | None = None  # (work, seconds) of the first look

    def look(self, done: float, total: float) -> float | None:
        """Seconds left with `done` of `total` units behind us; None while it would be a guess."""
        now = self._clock()
        if self._start is None or done < self._start[0]:
            self._start = (done, now)
        work, seconds = done - self._start[0], now - self._start[1]
        if work < self._after or work <= 0 or seconds < SHORTEST_BASIS:
            return None
        return max(0.0, total - done) * seconds / work


#: A phase without progress for so long is said to have none.
SECONDS_TO_TELL = 5.0
#: Where no bar can be drawn: after so long a line says so, and again after twice as long.
FIRST_STANDING = 60.0


class Bars:
    """Base of the progress displays: bars that redraw on a terminal, else whole plain lines."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self.clock = clock
        # Redrawing needs cursor control, which a file, a pipe or a dumb terminal does not have.
        self.live = console.is_terminal and not console.is_dumb_terminal
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            disable=not self.live,
            transient=True,
        )

    def __enter__(self: B) -> B:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        """Write one plain line at once, so that a log that is followed shows it in time."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.console.file.flush()


def time_left_text(seconds: float | None) -> str:
    """The estimate as text, empty while there is none or when all is as good as done."""
    if seconds is None or round(seconds) < 1:
        return ""
    return f"about {f'{seconds:.0f} s' if seconds < 59.5 else duration(seconds)} left"


def standing_text(seconds: float | None) -> str:
    """How long nothing moved, as text; empty while that is no longer than a look takes."""
    if seconds is None or seconds < SECONDS_TO_TELL:
        return ""
    return f"no progress for {f'{seconds:.0f} s' if seconds < 59.5 else duration(seconds)}"


def joined(*parts: str) -> str:
    """The non-empty parts in one phrase."""
    return ", ".join(part for part in parts if part)
