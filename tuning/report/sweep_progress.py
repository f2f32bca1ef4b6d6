"""Progress of a sweep on the terminal: trials by status, tasks done, time left."""

import time
from collections import Counter

from rich.console import Console

from system.report.terminal.bars import Bars, Clock, TimeLeft, joined, time_left_text
from tuning.run.trial_table import Status, TrialTable
from tuning.search.sweep_config import SweepMetric, counted


class SweepProgress(Bars):
    """Shows the progress of a trial table while its trials run; a context manager.

    A line whenever a trial ends; on a terminal a bar over tasks too.
    """

    def __init__(
        self, console: Console, metric: SweepMetric, clock: Clock = time.monotonic
    ) -> None:
        super().__init__(console, clock)
        self.metric = metric
        self._left = TimeLeft(after=1.0, clock=clock)  # a whole task
        self._title = ""
        self._printed: dict[str, Status] = {}  # statuses at the last look
        self._bar = self.progress.add_task("", total=None, detail="", visible=False)

    def begin(self, title: str, table: TrialTable) -> None:
        """Switch to a table; its trials that ended before are counted in one line."""
        self._title = title
        self._left = TimeLeft(after=1.0, clock=self.clock)
        self._printed = table.statuses()
        before = Counter(self._printed.values())
        if before["finished"] or before["stopped"]:
            self.line(f"{title}: {_counts(before)} before")
        self.refresh(table)

    def refresh(self, table: TrialTable) -> None:
        """Print the trials that ended since the last call, and redraw the bar."""
        statuses = table.statuses()
        counts = Counter(statuses.values())
        done, total = tasks_done(table, statuses)
        left = time_left_text(self._left.look(done, total))
        ended = {name for name, status in statuses.items() if status not in ("pending", "running")}
        for name in ended:
            if self._printed.get(name) != statuses[name]:
                self.line(joined(f"{name}: {self._outcome(table, name, statuses[name])}", left))
        self._printed = statuses
        if self.live:
            self.progress.update(
                self._bar,
                description=self._title if table.rule.tasks == 1 else f"{self._title}, tasks",
                completed=done,
                total=total,
                detail=joined(_counts(counts), left),
                visible=True,
            )

    def _outcome(self, table: TrialTable, name: str, status: Status) -> str:
        scores = table.entries[name].curve.scores
        tasks = table.rule.tasks
        last = next((score for score in reversed(scores) if score is not None), None)
        early = status != "finished" and tasks > 1
        after = f" after {len(scores)} of {tasks} tasks" if early else ""
        score = "" if last is None else f", {self.metric.name} {self.metric.text(last)}"
        outcome = f"has learned {counted(tasks)}" if table.part and status == "finished" else status
        return f"{outcome}{after}{score}"


def tasks_done(table: TrialTable, statuses: dict[str, Status]) -> tuple[int, int]:
    """Number of finished tasks, and of all tasks without those of trials that ended early."""
    done = total = 0
    for name, entry in table.entries.items():
        finished = len(entry.curve.scores)
        done += finished
        total += table.rule.tasks if statuses[name] in ("pending", "running") else finished
    return done, total


def _counts(counts: Counter[Status]) -> str:
    order: tuple[Status, ...] = ("finished", "running", "stopped", "failed", "pending")
    names = {"pending": "waiting"}
    return joined(*(f"{counts[s]} {names.get(s, s)}" for s in order if counts[s]))
