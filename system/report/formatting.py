"""Metrics as text, and the footnotes that say why one is undefined."""

from collections.abc import Sequence
from dataclasses import dataclass, field

DASH = "–"  # noqa: RUF001  (the sign for an undefined value)
MINUS = "−"  # noqa: RUF001


@dataclass(frozen=True)
class Formatted:
    """A value as text; an undefined one carries its reason and footnote number."""

    text: str
    reason: str | None = None
    note: int | None = None


@dataclass
class Footnotes:
    """The footnotes of a page or table: each distinct reason once, numbered from 1."""

    reasons: list[str] = field(default_factory=list)

    def undefined(self, reason: str) -> Formatted:
        """A dash that refers to the footnote with this reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return Formatted(DASH, reason, self.reasons.index(reason) + 1)

    def percent(self, value: float | None, reason: str) -> Formatted:
        """A percentage with one decimal, or the dash."""
        return self.undefined(reason) if value is None else Formatted(f"{value:.1f}")

    def points(self, value: float | None, reason: str) -> Formatted:
        """A signed difference in points with one decimal, or the dash."""
        return self.undefined(reason) if value is None else Formatted(signed(value))

    def count(self, value: float | None, reason: str) -> Formatted:
        """A whole number with thousands separated, or the dash."""
        return self.undefined(reason) if value is None else Formatted(f"{value:,.0f}")


def signed(value: float) -> str:
    """A number with its sign and one decimal; what rounds to zero has no sign."""
    text = f"{abs(value):.1f}"
    if float(text) == 0.0:
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def bracketed(ends: Sequence[float] | None, *, sign: bool = False) -> str:
    """An interval as '[39.8, 42.7]', or with signs as '[−0.3, +1.2]'; empty where there is none."""
    if ends is None:
        return ""
    return f"[{', '.join(signed(end) if sign else f'{end:.1f}' for end in ends)}]"


def duration(seconds: float) -> str:
    """A length of time as '42.0 s', '3 min 07 s' or '2 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
