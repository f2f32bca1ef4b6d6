"""The command `promptide sweep`: check, choose learning rates, run the trials, write the tables."""

from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console

from actors.cluster import check_places, ray_cluster
from actors.handle import SharedStreams
from system.engine.contents import contents_of
from system.storage.data_directory import DataDirectory
from system.storage.run_directory import RunDirectory
from system.storage.writer_lock import require_unwritten, sole_writer
from tuning.report.analysis import Outcome, write_analysis, write_description
from tuning.report.sweep_page import write_sweep_page
from tuning.report.sweep_progress import SweepProgress
from tuning.run.learning_rates import choose_learning_rates, rate_trials
from tuning.run.population_run import PopulationRun
from tuning.run.sweep_checks import check_sweep
from tuning.run.trial_table import TrialTable
from tuning.run.tune_run import Packing, run_trials
from tuning.search.proposals import Proposals
from tuning.search.sweep_plan import SweepPlan, Trial, TrialConfig

TUNE = "tune"  # Ray Tune's own logs, a folder per start


class Sweep:
    """State of a running sweep: its trial table, its proposals, and the connected cluster."""

    def __init__(
        self, plan: SweepPlan, tasks: Sequence[str], progress: SweepProgress, opened: ExitStack
    ) -> None:
        self.plan = plan
        self.opened = opened
        self._packing: Packing | None = None
        self._streams: SharedStreams | None = None
        self.progress = progress
        self.table = TrialTable(plan.config.rule(len(tasks)))
        self.proposals: Proposals | None = None

    def enter(self, trials: Sequence[Trial]) -> None:
        """Add trials to the table with their stored state, and claim their directories."""
        for trial in trials:
            RunDirectory.of(trial.experiment).claim(trial.experiment, contents_of(trial.experiment))
            self.table.add(trial, trial.record(self.plan.config.metric))

    def enter_config(self, config: TrialConfig) -> list[Trial]:
        """Add a proposed trial config to the table, with all seeds."""
        trials = list(self.plan.trials([config]))
        self.enter(trials)
        return trials

    def fill(self, bases: Sequence[TrialConfig]) -> None:
        """Add all trials known at the start; with Optuna, those of stored proposals."""
        config = self.plan.config
        if config.search != "optuna":
            self.enter(list(self.plan.trials(self.plan.trial_configs(bases))))
            return
        self.proposals = Proposals(
            config.parsed_space(),
            bases[0],
            config.samples,
            config.search_seed,
            self.plan.folder,
            self.table,
            self._parameters if config.fewer_parameters else None,
        )
        self.proposals.restore(self.enter_config)

    def _parameters(self, trial: Trial) -> float:
        record = trial.record(self.plan.config.metric)
        columns = trial.kind.columns(trial.experiment, record)
        return float(columns["trainable_parameters"])

    def run(self, table: TrialTable, title: str) -> None:
        """Run a table's trials; of the sweep's own table also those that are proposed meanwhile."""
        proposals = self.proposals if table is self.table else None
        config = self.plan.config
        self.progress.begin(title, table)
        room = proposals.samples * len(config.seeds) if proposals else len(table.entries)
        if proposals is None and next(table.to_run(), None) is None:
            return
        packing, streams = self.connect()
        run_trials(
            table,
            lambda: proposals.propose(self.enter_config) if proposals else None,
            lambda trial: proposals.settled(trial) if proposals else None,
            packing,
            streams,
            config.metric,
            self.plan.folder.child(TUNE),
            room,
            lambda: self.progress.refresh(table),
        )

    def connect(self) -> tuple[Packing, SharedStreams | None]:
        """Connect to the cluster, once; returns how trials fit on it, and the actor of streams."""
        if self._packing is None:
            experiment = self.plan.experiment
            self.opened.enter_context(ray_cluster(experiment.cluster))
            config = self.plan.config
            self._packing = Packing.of(
                experiment.cluster, config.max_concurrent, config.trials_per_gpu
            )
            check_places(experiment)
            if self.plan.kind.leases_tasks:
                self._streams = SharedStreams.start()
                self.opened.callback(self._streams.stop)
        return self._packing, self._streams


def run_sweep(plan: SweepPlan, console: Console) -> Outcome:
    """Run all unfinished trials of a sweep, and write its tables and page.

    Raises ConfigError before the first trial if any of them is misconfigured.
    """
    require_unwritten(plan.folder)
    tasks = check_sweep(plan)
    candidates = rate_trials(plan)
    with (
        sole_writer(plan.folder),
        ExitStack() as opened,
        SweepProgress(console, plan.metric(tasks)) as progress,
    ):
        DataDirectory.of(plan.experiment).probe()
        write_description(plan, tasks)
        sweep = Sweep(plan, tasks, progress, opened)
        try:
            bases = choose_learning_rates(plan, candidates, sweep.run)
            if plan.config.scheduler == "pbt":
                PopulationRun(plan, bases[0], len(tasks)).run(sweep.table, sweep.run)
            else:
                sweep.fill(bases)
                sweep.run(sweep.table, "trials")
        except (KeyboardInterrupt, SystemExit):
            if sweep.table.entries:
                _write(plan, sweep.table, tasks)  # the results so far
            raise
        return _write(plan, sweep.table, tasks)


def _write(plan: SweepPlan, table: TrialTable, tasks: Sequence[str]) -> Outcome:
    outcome = write_analysis(plan, table, tasks)
    write_sweep_page(plan.folder)
    return outcome
