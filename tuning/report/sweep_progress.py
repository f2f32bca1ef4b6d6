"""The sweep on the terminal: trials done, running, stopped; the best so far; time left."""

import time
from collections import Counter

from rich.console import Console

from system.report.terminal.bars import Bars, Clock, TimeLeft, joined, time_left_text
from tuning.report.measure import Measure, counted
from tuning.run.trial_table import Board, Status


class SweepProgress(Bars):
    """Shows a board while its trials run; a context manager.

    On a terminal one bar in tasks; elsewhere a line whenever a trial ends.
    """

    def __init__(self, console: Console, measure: Measure, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self.measure = measure
        self._left = TimeLeft(after=1.0, clock=clock)  # a whole task
        self._title = ""
        self._shown: dict[str, Status] = {}
        self._bar = self.progress.add_task("", total=None, detail="", visible=False)

    def begin(self, title: str, board: Board) -> None:
        """Start to show a board; what is finished already is told at once."""
        self._title = title
        self._left = TimeLeft(after=1.0, clock=self.clock)
        self._shown = board.statuses()
        before = Counter(self._shown.values())
        if before["finished"] or before["stopped"]:
            self.line(f"{title}: {_counts(before)} before")
        self.look(board)

    def look(self, board: Board) -> None:
        """Show where the board's trials stand."""
        statuses = board.statuses()
        counts = Counter(statuses.values())
        done, total = tasks_done(board, statuses)
        left = time_left_text(self._left.look(done, total))
        ended = {name for name, status in statuses.items() if status not in ("pending", "running")}
        for name in ended:
            if self._shown.get(name) != statuses[name]:
                self.line(joined(f"{name}: {self._outcome(board, name, statuses[name])}", left))
        self._shown = statuses
        if self.live:
            self.progress.update(
                self._bar,
                description=self._title if board.rule.tasks == 1 else f"{self._title}, tasks",
                completed=done,
                total=total,
                detail=joined(_counts(counts), left),
                visible=True,
            )

    def _outcome(self, board: Board, name: str, status: Status) -> str:
        figures = board.entries[name].course.figures
        tasks = board.rule.tasks
        last = next((figure for figure in reversed(figures) if figure is not None), None)
        early = status != "finished" and tasks > 1
        after = f" after {len(figures)} of {tasks} tasks" if early else ""
        figure = "" if last is None else f", {self.measure.name} {self.measure.text(last)}"
        shown = f"has learned {counted(tasks)}" if board.part and status == "finished" else status
        return f"{shown}{after}{figure}"


def tasks_done(board: Board, statuses: dict[str, Status]) -> tuple[int, int]:
    """Tasks finished, and tasks to finish in all; a trial that ended early needs no more."""
    done = total = 0
    for name, entry in board.entries.items():
        figures = len(entry.course.figures)
        done += figures
        total += board.rule.tasks if statuses[name] in ("pending", "running") else figures
    return done, total


def _counts(counts: Counter[Status]) -> str:
    order: tuple[Status, ...] = ("finished", "running", "stopped", "failed", "pending")
    names = {"pending": "waiting"}
    return joined(*(f"{counts[s]} {names.get(s, s)}" for s in order if counts[s]))
