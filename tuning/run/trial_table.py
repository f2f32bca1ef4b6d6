"""The state of every trial of a sweep, and which of them are stopped."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tuning.run.pruner import LearningCurve, PruningRule, pruned_after
from tuning.run.trial_kind import TrialRecord
from tuning.search.sweep_plan import Trial

Status = Literal["pending", "running", "finished", "stopped", "failed"]


@dataclass
class TrialEntry:
    """A trial with its learning curve so far."""

    trial: Trial
    curve: LearningCurve
    state: Literal["pending", "running", "finished", "failed"] = "pending"
    reason: str | None = None  # why it is not tried again, if no failure is stored


class TrialTable:
    """All trials in the order of the sweep; which ones are stopped follows from their scores alone.

    With `part`, trials count as finished after `rule.tasks` tasks, though their stream goes on.
    """

    def __init__(self, rule: PruningRule, part: bool = False) -> None:
        self.rule = rule
        self.part = part
        self.entries: dict[str, TrialEntry] = {}
        self._stopped: dict[str, int] = {}  # by `stop`, not by the rule

    def add(self, trial: Trial, record: TrialRecord) -> None:
        """Append a trial with its stored state."""
        scores = list(record.scores[: self.rule.tasks])
        finished = record.finished or (self.part and len(scores) == self.rule.tasks)
        curve = LearningCurve(scores, ended=finished)
        self.entries[trial.name] = TrialEntry(trial, curve, "finished" if finished else "pending")

    def stop(self, name: str, tasks: int) -> None:
        """Mark a trial as stopped after `tasks` tasks by something other than the rule."""
        self._stopped[name] = tasks

    def abandon(self, name: str, reason: str) -> None:
        """Mark a trial as failed earlier; it is not tried again."""
        entry = self.entries[name]
        entry.state, entry.curve.ended, entry.reason = "failed", True, reason

    def report(self, name: str, tasks_done: int, score: float) -> None:
        """Enter the score after `tasks_done` tasks (NaN: undefined); a repeated report is ignored.

        A trial that continues reports its earlier tasks again.
        """
        scores = self.entries[name].curve.scores
        if tasks_done == len(scores) + 1:
            scores.append(None if math.isnan(score) else score)

    def start(self, name: str) -> None:
        """Mark a trial as running."""
        self.entries[name].state = "running"

    def end(self, name: str, failed: bool) -> None:
        """A trial is no longer running: it finished, failed or was stopped."""
        entry = self.entries[name]
        complete = len(entry.curve.scores) == self.rule.tasks
        if failed or not (complete or name in self.stops()):
            entry.state = "failed"
        elif complete:
            entry.state = "finished"
        entry.curve.ended = entry.state in ("finished", "failed")

    def stops(self) -> dict[str, int]:
        """Name of each stopped trial -> number of tasks after which it is stopped.

        Trials of the same seed are compared. A trial config that is stopped with one seed is not
        tried with the seeds after it: 0 tasks.
        """
        stops = dict(self._stopped)
        dropped: set[str] = set()
        seeds = dict.fromkeys(entry.trial.seed for entry in self.entries.values())
        for seed in seeds:
            group = [entry for entry in self.entries.values() if entry.trial.seed == seed]
            skipped = [entry.trial.config.label in dropped for entry in group]
            curves = [
                LearningCurve([], ended=True) if skip else entry.curve
                for entry, skip in zip(group, skipped, strict=True)
            ]
            decisions = pruned_after(self.rule, curves)
            for entry, skip, tasks in zip(group, skipped, decisions, strict=True):
                if skip:
                    stops[entry.trial.name] = 0
                elif tasks is not None:
                    stops[entry.trial.name] = tasks
                    dropped.add(entry.trial.config.label)
        return stops

    def statuses(self) -> dict[str, Status]:
        """Each trial's status by name; a finished trial that the rule stops late counts as stopped.

        Otherwise the set of finished trials would depend on which trial was faster.
        """
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
