"""`promptide sweep` from its plan to its tables: check, choose rates, run trials, compare."""

from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console

from actors.cluster import check_storage, ray_cluster
from actors.handle import SharedStreams
from system.storage.run_directory import RunDirectory
from system.storage.writer_lock import sole_writer
from tuning.report.analysis import Outcome, write_analysis, write_description
from tuning.report.sweep_page import write_sweep_page
from tuning.report.sweep_progress import SweepProgress
from tuning.run.learning_rates import choose_learning_rates, rate_trials
from tuning.run.population_run import PopulationRun
from tuning.run.sweep_checks import check_sweep
from tuning.run.trial_kind import kind_of, read_record
from tuning.run.trial_table import Board
from tuning.run.tune_run import Packing, run_trials
from tuning.search.proposals import Proposals
from tuning.search.sweep_plan import Setting, SweepPlan, Trial

TUNE = "tune"  # Ray Tune's own logs, a folder a start


class Sweep:
    """The parts of a running sweep."""

    def __init__(
        self, plan: SweepPlan, tasks: Sequence[str], progress: SweepProgress, opened: ExitStack
    ) -> None:
        self.plan = plan
        self.opened = opened
        self._packing: Packing | None = None
        self._streams: SharedStreams | None = None
        self.progress = progress
        self.board = Board(plan.config.rule(len(tasks)))
        self.proposals: Proposals | None = None

    def enter(self, trials: Sequence[Trial]) -> None:
        """Put trials on the board with what their directories tell."""
        for trial in trials:
            RunDirectory.of(trial.experiment).claim(trial.experiment)
            self.board.add(trial, read_record(trial.experiment, self.plan.config.metric))

    def enter_setting(self, setting: Setting) -> list[Trial]:
        """Put a setting that was just proposed on the board, with all seeds."""
        trials = list(self.plan.trials([setting]))
        self.enter(trials)
        return trials

    def fill(self, bases: Sequence[Setting]) -> None:
        """Enter all trials that are known, and what was proposed before."""
        config = self.plan.config
        if config.search != "optuna":
            self.enter(list(self.plan.trials(self.plan.settings(bases))))
            return
        self.proposals = Proposals(
            config.parsed_space(),
            bases[0],
            config.samples,
            config.search_seed,
            self.plan.folder,
            self.board,
            self._parameters if config.fewer_parameters else None,
        )
        self.proposals.restore(self.enter_setting)

    def _parameters(self, trial: Trial) -> float:
        record = read_record(trial.experiment, self.plan.config.metric)
        columns = kind_of(trial.experiment).columns(trial.experiment, record)
        return float(columns["trainable_parameters"])

    def run(self, board: Board, title: str) -> None:
        """Run what a board has to run, and what is proposed on the way if it is the sweep's own."""
        proposals = self.proposals if board is self.board else None
        config = self.plan.config
        self.progress.begin(title, board)
        room = proposals.samples * len(config.seeds) if proposals else len(board.entries)
        if proposals is None and next(board.to_run(), None) is None:
            return
        packing, streams = self.connect()
        run_trials(
            board,
            lambda: proposals.propose(self.enter_setting) if proposals else None,
            lambda trial: proposals.settled(trial) if proposals else None,
            packing,
            streams,
            config.metric,
            self.plan.folder.child(TUNE),
            room,
            lambda: self.progress.look(board),
        )

    def connect(self) -> tuple[Packing, SharedStreams | None]:
        """Reach the cluster, once: how trials fit on it, and what serves those that lease tasks."""
        if self._packing is None:
            experiment = self.plan.experiment
            self.opened.enter_context(ray_cluster(experiment.cluster))
            self._packing = Packing.of(experiment.cluster, self.plan.config.max_concurrent)
            check_storage(experiment.storage_path)
            if kind_of(experiment).leases_tasks:
                self._streams = SharedStreams.start()
                self.opened.callback(self._streams.stop)
        return self._packing, self._streams


def run_sweep(plan: SweepPlan, console: Console) -> Outcome:
    """Run all trials of a sweep that are not finished yet, and write its tables and page.

    Raises ConfigError before the first trial for whatever is wrong with any of them.
    """
    tasks = check_sweep(plan)
    candidates = rate_trials(plan)
    with (
        sole_writer(plan.folder),
        ExitStack() as opened,
        SweepProgress(console, plan.measure(tasks)) as progress,
    ):
        write_description(plan, tasks)
        sweep = Sweep(plan, tasks, progress, opened)
        try:
            bases = choose_learning_rates(plan, candidates, sweep.run)
            if plan.config.scheduler == "pbt":
                PopulationRun(plan, bases[0], len(tasks)).run(sweep.board, sweep.run)
            else:
                sweep.fill(bases)
                sweep.run(sweep.board, "trials")
        except (KeyboardInterrupt, SystemExit):
            if sweep.board.entries:
                _written(plan, sweep.board, tasks)  # what there is so far
            raise
        return _written(plan, sweep.board, tasks)


def _written(plan: SweepPlan, board: Board, tasks: Sequence[str]) -> Outcome:
    outcome = write_analysis(plan, board, tasks)
    write_sweep_page(plan.folder)
    return outcome
