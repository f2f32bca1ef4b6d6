"""Where every trial of a sweep stands, and which of them are stopped."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tuning.run.pruner import Course, Rule, verdicts
from tuning.run.records import TrialRecord
from tuning.search.sweep_plan import Trial

Status = Literal["pending", "running", "finished", "stopped", "failed"]


@dataclass
class Entry:
    """A trial with its course so far."""

    trial: Trial
    course: Course
    state: Literal["pending", "running", "finished", "failed"] = "pending"
    reason: str | None = None  # why it is not tried again, if nothing else says why it failed


class Board:
    """All trials in the order of the sweep; what is stopped follows from their figures alone.

    The board of a `part` of the stream ends after `rule.tasks`, wherever its trials stand later.
    """

    def __init__(self, rule: Rule, part: bool = False) -> None:
        self.rule = rule
        self.part = part
        self.entries: dict[str, Entry] = {}
        self._stopped: dict[str, int] = {}  # by another verdict than the rule's

    def add(self, trial: Trial, record: TrialRecord) -> None:
        """Enter the next trial with what its directory tells."""
        figures = list(record.figures[: self.rule.tasks])
        finished = record.finished or (self.part and len(figures) == self.rule.tasks)
        course = Course(figures, ended=finished)
        self.entries[trial.name] = Entry(trial, course, "finished" if finished else "pending")

    def stop(self, name: str, tasks: int) -> None:
        """A trial ended after so many tasks by a verdict that is not the rule's."""
        self._stopped[name] = tasks

    def leave(self, name: str, reason: str) -> None:
        """A trial failed earlier, and is not tried again."""
        entry = self.entries[name]
        entry.state, entry.course.ended, entry.reason = "failed", True, reason

    def report(self, name: str, tasks_done: int, figure: float) -> None:
        """A trial's figure after so many tasks (NaN: none); what was reported before stays."""
        figures = self.entries[name].course.figures
        if tasks_done == len(figures) + 1:
            figures.append(None if math.isnan(figure) else figure)

    def start(self, name: str) -> None:
        """A trial runs now."""
        self.entries[name].state = "running"

    def end(self, name: str, failed: bool) -> None:
        """A trial's process has ended: at its last task, in a failure, or stopped before."""
        entry = self.entries[name]
        complete = len(entry.course.figures) == self.rule.tasks
        if failed or not (complete or name in self.stops()):
            entry.state = "failed"
        elif complete:
            entry.state = "finished"
        entry.course.ended = entry.state in ("finished", "failed")

    def stops(self) -> dict[str, int]:
        """Name -> after how many tasks each stopped trial is stopped.

        Trials with the same seed are compared. A setting that is stopped with one seed is not tried
        with the seeds after it: 0 tasks.
        """
        stops = dict(self._stopped)
        dropped: set[str] = set()
        seeds = dict.fromkeys(entry.trial.seed for entry in self.entries.values())
        for seed in seeds:
            group = [entry for entry in self.entries.values() if entry.trial.seed == seed]
            skipped = [entry.trial.setting.label in dropped for entry in group]
            courses = [
                Course([], ended=True) if skip else entry.course
                for entry, skip in zip(group, skipped, strict=True)
            ]
            for entry, skip, stop in zip(group, skipped, verdicts(self.rule, courses), strict=True):
                if skip:
                    stops[entry.trial.name] = 0
                elif stop is not None:
                    stops[entry.trial.name] = stop
                    dropped.add(entry.trial.setting.label)
        return stops

    def statuses(self) -> dict[str, Status]:
        """Each trial's status by name; one whose verdict came late is stopped all the same."""
        stops = self.stops()
        return {
            name: "stopped" if name in stops else entry.state
            for name, entry in self.entries.items()
        }

    def to_run(self) -> Iterator[Trial]:
        """Trials that are neither finished nor stopped nor running, in order."""
        stops = self.stops()
        for name, entry in self.entries.items():
            if entry.state == "pending" and name not in stops:
                yield entry.trial
