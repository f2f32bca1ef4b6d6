"""What a trial's run directory tells about it: the one truth of a sweep that is started again."""

from dataclasses import dataclass
from typing import Any

FAILURE = "failure.json"  # why a trial's last attempt ended, while it has not been mended


@dataclass(frozen=True)
class TrialRecord:
    """How far a trial came: its figure after each task, and its final figures once it finished."""

    figures: list[float | None]
    metrics: dict[str, Any] | None
    failure: str | None

    @property
    def finished(self) -> bool:
        """Whether the trial went to its end; it is then never run again."""
        return self.metrics is not None
