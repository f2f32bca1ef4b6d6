"""Progress of a running stream: task, epoch, loss, images per second, time left."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from system.report.terminal.bars import (
    FIRST_STANDING,
    Bars,
    Clock,
    TimeLeft,
    joined,
    standing_text,
    time_left_text,
)

if TYPE_CHECKING:
    from system.stream.task_source import ConsumerStatus

PHASES = {
    "features": "computing features",
    "train": "training",
    "evaluate": "evaluating",
    "commit": "saving",
    "wait": "waiting for the next task",
}


@dataclass(frozen=True)
class Position:
    """Position of the worker group in the stream; numbers that its phase lacks are None."""

    phase: str
    task: str
    index: int  # of the task, from 0
    tasks: int
    epoch: int | None  # from 0
    epochs: int | None
    step: int | None  # done in this epoch
    steps: int | None  # of an epoch
    loss: float | None
    rate: float | None  # images per second

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> "Position":
        """The position in a progress report of the worker loop."""
        return cls(
            phase=str(progress["phase"]),
            task=str(progress["task"]),
            index=int(progress["task_index"]),
            tasks=int(progress["tasks"]),
            epoch=progress.get("epoch"),
            epochs=progress.get("epochs"),
            step=progress.get("step"),
            steps=progress.get("steps"),
            loss=progress.get("loss"),
            rate=progress.get("images_per_second"),
        )

    @property
    def key(self) -> tuple[int, str, int | None]:
        """A new line is due when this changes."""
        return self.index, self.phase, self.epoch

    @property
    def name(self) -> str:
        """The task with its place, as 'task 3/12 outdoor'; without one, how many there were."""
        if not self.task:
            return f"{self.index} tasks"
        return f"task {self.index + 1}/{self.tasks} {self.task}"

    @property
    def activity(self) -> str:
        """The phase in words, or the epoch while training."""
        if self.epoch is None or self.epochs is None:
            return PHASES.get(self.phase, self.phase)
        return f"epoch {self.epoch + 1}/{self.epochs}"

    @property
    def place(self) -> str:
        """The phase with epoch and step, as far as it has them: 'training, epoch 2/3, step 4/9'."""
        return joined(
            PHASES.get(self.phase, self.phase),
            "" if self.epoch is None else self.activity,
            self.steps_done,
        )

    @property
    def steps_done(self) -> str:
        """The steps that are done in the epoch, where the phase has any."""
        return "" if self.step is None else f"step {self.step}/{self.steps}"

    @property
    def metrics(self) -> str:
        """Loss and speed where the phase has them."""
        return joined(
            "" if self.loss is None else f"loss {self.loss:.4f}",
            "" if self.rate is None else f"{self.rate:,.0f} images/s",
        )

    @property
    def epochs_done(self) -> float:
        """Epochs of the task behind us, in fractions; 0 outside of training."""
        if self.epoch is None or not self.step or not self.steps:
            return float(self.epoch or 0)
        return self.epoch + self.step / self.steps

    @property
    def task_share(self) -> float:
        """Share of the task that is done: by epochs, all of it once only evaluation is left."""
        if self.phase in ("evaluate", "commit"):
            return 1.0
        return self.epochs_done / self.epochs if self.epochs else 0.0


class StreamProgress(Bars):
    """Shows a stream while it runs; a context manager.

    On a terminal two bars: the stream and the current task. Elsewhere one line at the end of each
    epoch and at each change of phase. `update` may be called from another thread, but only one.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._stream_left = TimeLeft(after=1.0, clock=clock)  # a whole task
        self._task_left = TimeLeft(after=1.0, clock=clock)  # a whole epoch
        self._last: Position | None = None
        self._written: tuple[int, str, int | None] | None = None
        self._committed: int | None = None
        self._stood = FIRST_STANDING  # seconds without progress after which a line says so
        self._stream_bar = self.progress.add_task("starting workers", total=None, detail="")
        self._task_bar = self.progress.add_task("", total=None, detail="", visible=False)

    def update(self, status: "ConsumerStatus") -> None:
        """Show where a consumer of the stream stands."""
        progress = status["progress"]
        position = None if progress is None else Position.of(progress)
        total, committed = len(status["tasks"]), status["committed"]
        share = position.task_share if position and position.index >= committed else 0.0
        left = time_left_text(self._stream_left.look(committed + share, total))
        if self.live:
            self._draw(status, position, committed + share, left)
        else:
            self._write(status, position, left)
        self._last, self._committed = position, committed

    def _draw(
        self, status: "ConsumerStatus", position: Position | None, done: float, left: str
    ) -> None:
        """Bring both bars up to date."""
        total = len(status["tasks"])
        learned = f"{status['committed']} of {total} tasks learned"
        self.progress.update(
            self._stream_bar,
            description=position.name if position else "starting workers",
            completed=done,
            total=total,
            detail=joined(learned, left),
        )
        if position is None:
            return
        if self._last is None or self._last.index != position.index:
            self._task_left = TimeLeft(after=1.0, clock=self.clock)
        epochs = position.epochs
        task_left = self._task_left.look(position.epochs_done, epochs) if epochs else None
        self.progress.update(
            self._task_bar,
            description=position.activity,
            # Without epochs to count, a bar without an end moves until the phase is over.
            total=epochs,
            completed=position.epochs_done,
            detail=joined(
                position.steps_done,
                position.metrics,
                time_left_text(task_left),
                standing_text(status["seconds_since_progress"]),
            ),
            visible=True,
        )

    def _write(self, status: "ConsumerStatus", position: Position | None, left: str) -> None:
        """Write the lines that are due since the last look."""
        committed, tasks = status["committed"], status["tasks"]
        self._write_standing(status, position)
        if self._last and (position is None or position.key != self._last.key):
            self._write_epoch(self._last)
        if self._committed is None and committed:
            self.line(f"{committed} of {len(tasks)} tasks were learned before")
        elif self._committed is not None:
            # More than one, where the looks are further apart than short tasks take.
            for number in range(self._committed + 1, committed + 1):
                name = tasks[number - 1]["task"]
                known = left if number == committed else ""
                self.line(joined(f"task {number}/{len(tasks)} {name}: learned", known))
        if position is None:
            return
        if position.epoch is None:
            if self._last is None or position.key != self._last.key:
                self.line(f"{position.name}: {position.activity}")
        elif position.step == position.steps:
            self._write_epoch(position)

    def _write_standing(self, status: "ConsumerStatus", position: Position | None) -> None:
        """Write that nothing moves: after a while, and again after twice as long each time."""
        seconds = status["seconds_since_progress"] or 0.0
        if seconds < FIRST_STANDING:
            self._stood = FIRST_STANDING
        elif seconds >= self._stood and position is not None and position.phase != "wait":
            self._stood = 2 * seconds
            self.line(f"{position.name}: {joined(position.place, standing_text(seconds))}")

    def _write_epoch(self, position: Position) -> None:
        """Write the last known metrics of an epoch, once."""
        if position.epoch is None or self._written == position.key:
            return
        self._written = position.key
        self.line(joined(f"{position.name}: {position.activity}", position.metrics))
