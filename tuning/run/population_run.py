"""A sweep by population based training, in rounds; the arithmetic is `tuning.search.population`.

A round runs all living trials up to the next comparison. The progress of a trial is in its own run
directory, as in any sweep; each decision is stored in population.json when it is made.
"""

from collections.abc import Callable
from dataclasses import replace

from actors.fork import fork_run
from system.config.schema import ExperimentConfig
from system.engine.contents import contents_of
from system.errors import ConfigError
from system.storage.run_directory import RunDirectory
from tuning.run.pruner import PruningRule
from tuning.run.trial_kind import TrialRecord
from tuning.run.trial_table import TrialTable
from tuning.search.population import Decision, decide, rungs
from tuning.search.sweep_plan import Origin, SweepPlan, Trial, TrialConfig, at_point

POPULATION = "population.json"
LEFT_BEHIND = "its process died before a comparison, and the others went on without it"
Run = Callable[[TrialTable, str], None]  # runs a table's trials, with a title for the display


class PopulationRun:
    """The trials of a population by label; `living` are those that continue, in order."""

    def __init__(self, plan: SweepPlan, base: TrialConfig, tasks: int) -> None:
        self.plan = plan
        self.base = base
        self.tasks = tasks
        self.trials: dict[str, Trial] = {}
        self.living: list[str] = []
        self.stopped: dict[str, int] = {}  # label -> number of tasks after which it was stopped
        stored = plan.folder.read_json(POPULATION) if plan.folder.exists(POPULATION) else []
        self.decisions = {entry["tasks"]: Decision.from_dict(entry) for entry in stored}

    def run(self, table: TrialTable, run: Run) -> None:
        """Run all rounds; the last of them on `table`, which then contains all trials.

        Raises ConfigError when the stored decisions are about another population.
        """
        for config in self.plan.trial_configs([self.base]):
            self._enter(config)
        for rung in rungs(self.plan.config.pbt.every, self.tasks):
            if rung not in self.decisions:
                self._learn(rung, run)
                self._decide(rung)
            if rung in self.decisions:
                self._apply(self.decisions[rung])
        for label, trial in self.trials.items():
            table.add(trial, self._record(label))
            if label in self.stopped:
                table.stop(trial.name, self.stopped[label])
            elif label not in self.living:
                table.abandon(trial.name, LEFT_BEHIND)
        run(table, "trials")

    def _enter(self, config: TrialConfig) -> Trial:
        (trial,) = self.plan.trials([config])
        RunDirectory.of(trial.experiment).claim(trial.experiment, contents_of(trial.experiment))
        self.trials[config.label] = trial
        self.living.append(config.label)
        return trial

    def _record(self, label: str) -> TrialRecord:
        return self.trials[label].record(self.plan.config.metric)

    def _learn(self, rung: int, run: Run) -> None:
        """Run all living trials up to `rung` tasks."""
        table = TrialTable(PruningRule("none", 1, 2, rung), part=True)
        for label in self.living:
            table.add(self.trials[label], self._record(label))
        run(table, f"to task {rung} of {self.tasks}")

    def _decide(self, rung: int) -> None:
        """Compare the trials that finished `rung` tasks by their stored scores; store the decision.

        Nothing is stored if fewer than two trials can be compared.
        """
        records = {label: self._record(label).scores for label in self.living}
        scores = {label: s[rung - 1] for label, s in records.items() if len(s) >= rung}
        config = self.plan.config
        decision = decide(
            scores,
            {label: self.trials[label].config.values for label in scores},
            config.parsed_space(),
            config.pbt,
            config.search_seed,
            rung,
            len(self.trials),
        )
        if decision is not None:
            self.decisions[rung] = decision
            stored = [each.to_dict() for each in self.decisions.values()]
            self.plan.folder.write_json(POPULATION, stored)

    def _apply(self, decision: Decision) -> None:
        """Stop the trials that end, and fork the new ones from where their parents are now.

        A trial that failed before the comparison is left behind for good: trying it again would
        rank another population than the one that the stored forks come from.
        """
        if not set(decision.scores) <= set(self.living):
            raise ConfigError(
                f"{self.plan.folder.file_uri(POPULATION)} is of another population; give this "
                "sweep another run_name, or continue the stored one with its own values"
            )
        self.stopped |= dict.fromkeys(decision.ended, decision.tasks)
        self.living = [label for label in decision.scores if label not in decision.ended]
        for fork in decision.forks:
            config = at_point(self.base, fork.values, len(self.trials))
            origin = Origin(fork.parent, decision.tasks)
            child = self._enter(replace(config, origin=origin)).experiment
            parent = self.trials[fork.parent].experiment
            assert isinstance(child, ExperimentConfig), "models have no tasks to be compared after"
            assert isinstance(parent, ExperimentConfig)
            fork_run(parent, child, decision.tasks)
