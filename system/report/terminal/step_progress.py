"""Progress of preparing a dataset, pre-training a small backbone, training a stage's model."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rich.console import Console
from typing_extensions import override

from system.report.terminal.bars import (
    FIRST_STANDING,
    Bars,
    Clock,
    TimeLeft,
    joined,
    standing_text,
    time_left_text,
)
from system.report.terminal.tables import print_split_table

LINES = 10  # plain lines per phase, where no bar can be drawn
WARM_UP = 0.02  # share of a phase that passes before the time left is estimated


class _StepProgress(Bars):
    """One bar for the phase that runs now."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._phase: str | None = None
        self._tenth = 0
        self._left = TimeLeft(0.0, clock)
        self._bar = self.progress.add_task("", total=None, detail="", visible=False)

    def show(self, phase: str, done: int, total: int, metrics: str = "") -> None:
        """Show `done` of `total` steps of a phase with its metrics as text."""
        if phase != self._phase:
            self._phase, self._tenth = phase, 0
            self._left = TimeLeft(max(1.0, WARM_UP * total), self.clock)
            self._left.look(done - 1, total)  # the phase began before its first step was done
        left = time_left_text(self._left.look(done, total) if done < total else None)
        if self.live:
            detail = joined(f"{done:,} of {total:,}", metrics, left)
            self.progress.update(
                self._bar,
                description=phase,
                completed=done,
                total=total,
                detail=detail,
                visible=True,
            )
            return
        tenth = LINES * done // total if total else LINES
        if tenth > self._tenth:
            self._tenth = tenth
            self.line(f"{phase}: {joined(f'{done:,} of {total:,}', metrics, left)}")


class ModelProgress(_StepProgress):
    """Shows the training of a model by `promptide run`, or an evaluation, phase by phase.

    `show` is called also while nothing moves, and says so.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._place: tuple[str, int] | None = None
        self._since = 0.0  # it is there
        self._stood = FIRST_STANDING  # seconds there after which a line says so

    @override
    def show(self, phase: str, done: int, total: int, metrics: str = "") -> None:
        now = self.clock()
        if self._place != (phase, done):
            self._place, self._since, self._stood = (phase, done), now, FIRST_STANDING
        standing = standing_text(now - self._since)
        super().show(phase, done, total, joined(metrics, standing) if self.live else metrics)
        if not self.live and now - self._since >= self._stood:
            self._stood = 2 * (now - self._since)
            self.line(f"{phase}: {joined(f'{done:,} of {total:,}', standing)}")


class PrepareProgress(_StepProgress):
    """Shows `promptide prepare`: images written by split, and the split table at the end."""

    def update(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` rows of a phase (a split's name, say) are done."""
        self.show(phase, done, total)

    def finish(
        self,
        counts: Mapping[str, Mapping[str, int]],
        skipped: Mapping[str, Mapping[str, int]],
        quarantined: Mapping[str, Mapping[str, Any]],
        unoriented: Mapping[str, int] = MappingProxyType({}),
        in_two_splits: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """End the bar and print the images per task and split, and what is not among them.

        `counts` is {task: {split: images}}, `skipped` {split: {reason: rows left out on purpose}},
        `quarantined` {kind of fault: {"rows": broken rows, "first": some names}}, `unoriented`
        {split: images whose orientation tag is not applied}, `in_two_splits` {split: images whose
        picture is in another split too}.
        """
        self.progress.stop()
        print_split_table(counts, self.console)
        for split, reasons in skipped.items():
            for reason, rows in reasons.items():
                self._note(f"left out of {split}: {rows:,} {reason.replace('_', ' ')}")
        for kind, found in quarantined.items():
            names = ", ".join(found["first"])
            more = ", ..." if found["rows"] > len(found["first"]) else ""
            self._note(f"quarantined: {found['rows']:,} {kind}: {names}{more}")
        for split, images in unoriented.items():
            self._note(
                f"orientation tags not applied in {split}: {images:,} images, which stay as they "
                "are stored, as boxes and masks expect"
            )
        for split, images in in_two_splits.items():
            self._note(
                f"in two splits: {images:,} images of {split} are the same pictures as images of "
                "another split, and splits were drawn: remove them, or put them aside with "
                "benchmark.options.on_error=quarantine"
            )

    def _note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class PretrainProgress(_StepProgress):
    """Shows `promptide pretrain`: steps and loss."""

    def update(self, step: int, steps: int, loss: float) -> None:
        """Show that `step` of `steps` are done, and the loss."""
        self.show("pre-training", step, steps, f"loss {loss:.4f}")
