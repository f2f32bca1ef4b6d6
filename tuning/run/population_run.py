"""A sweep by population based training, round by round; see `tuning.search.population`.

A round brings all living trials to the next comparison. How far a trial is stands in its own
directory, as in any sweep; each verdict is kept in population.json, as it was made.
"""

from collections.abc import Callable
from dataclasses import asdict, replace

from actors.fork import fork_run
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.storage.run_directory import RunDirectory
from tuning.run.pruner import Rule
from tuning.run.records import TrialRecord
from tuning.run.trial_kind import read_record
from tuning.run.trial_table import Board
from tuning.search.population import Verdict, judge, rungs
from tuning.search.sweep_plan import Origin, Setting, SweepPlan, Trial, at_point

POPULATION = "population.json"
LEFT_BEHIND = "its process died before a comparison, and the others went on without it"
Run = Callable[[Board, str], None]  # runs a board's trials, with a title for the display


class PopulationRun:
    """The trials of a population; `living` are those that go on, in order."""

    def __init__(self, plan: SweepPlan, base: Setting, tasks: int) -> None:
        self.plan = plan
        self.base = base
        self.tasks = tasks
        self.trials: dict[str, Trial] = {}
        self.living: list[str] = []
        self.stopped: dict[str, int] = {}  # after how many tasks
        kept = plan.folder.read_json(POPULATION) if plan.folder.exists(POPULATION) else []
        self.verdicts = {entry["tasks"]: Verdict.of(entry) for entry in kept}

    def run(self, board: Board, run: Run) -> None:
        """Run all rounds; the last of them on `board`, where all trials then are.

        Raises ConfigError when an earlier start was of another population.
        """
        for setting in self.plan.settings([self.base]):
            self._enter(setting)
        for rung in rungs(self.plan.config.pbt.every, self.tasks):
            if rung not in self.verdicts:
                self._learn(rung, run)
                self._judge(rung)
            if rung in self.verdicts:
                self._renew(self.verdicts[rung])
        for label, trial in self.trials.items():
            board.add(trial, self._record(label))
            if label in self.stopped:
                board.stop(trial.name, self.stopped[label])
            elif label not in self.living:
                board.leave(trial.name, LEFT_BEHIND)
        run(board, "trials")

    def _enter(self, setting: Setting) -> Trial:
        (trial,) = self.plan.trials([setting])
        RunDirectory.of(trial.experiment).claim(trial.experiment)
        self.trials[setting.label] = trial
        self.living.append(setting.label)
        return trial

    def _record(self, label: str) -> TrialRecord:
        return read_record(self.trials[label].experiment, self.plan.config.metric)

    def _learn(self, rung: int, run: Run) -> None:
        """Bring all living trials so far."""
        board = Board(Rule("none", 1, 2, rung), part=True)
        for label in self.living:
            board.add(self.trials[label], self._record(label))
        run(board, f"to task {rung} of {self.tasks}")

    def _judge(self, rung: int) -> None:
        """Compare who came so far, by what is on storage, and keep the verdict there."""
        records = {label: self._record(label).figures for label in self.living}
        figures = {label: f[rung - 1] for label, f in records.items() if len(f) >= rung}
        config = self.plan.config
        verdict = judge(
            figures,
            {label: self.trials[label].setting.values for label in figures},
            config.parsed_space(),
            config.pbt,
            config.search_seed,
            rung,
            len(self.trials),
        )
        if verdict is not None:
            self.verdicts[rung] = verdict
            self.plan.folder.write_json(POPULATION, [asdict(v) for v in self.verdicts.values()])

    def _renew(self, verdict: Verdict) -> None:
        """End who is to end, and let the new trials begin where their parents stand now.

        Who failed before the comparison is left behind, for this start and all after it.
        """
        if not set(verdict.figures) <= set(self.living):
            raise ConfigError(
                f"{self.plan.folder.file_uri(POPULATION)} is of another population; give this "
                "sweep another run_name, or the old values to go on with that one"
            )
        self.stopped |= dict.fromkeys(verdict.ended, verdict.tasks)
        self.living = [label for label in verdict.figures if label not in verdict.ended]
        for fork in verdict.forks:
            setting = at_point(self.base, fork.values, len(self.trials))
            origin = Origin(fork.parent, verdict.tasks)
            child = self._enter(replace(setting, origin=origin)).experiment
            parent = self.trials[fork.parent].experiment
            assert isinstance(child, ExperimentConfig), "models have no tasks to be compared after"
            assert isinstance(parent, ExperimentConfig)
            fork_run(parent, child, verdict.tasks)
