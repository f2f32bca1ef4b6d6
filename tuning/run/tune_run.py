"""Runs the trials of a board on Ray Tune.

Tune starts the trials, packs them on the cluster and carries their reports. What is finished and
what is stopped is the board's, which reads it from the trials' own directories: nothing of Tune's
state has to survive the driver.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from actors.cluster import workers_that_fit
from actors.handle import SharedStreams
from system.config.schema import ClusterConfig
from system.errors import ConfigError
from system.loggers.open_loggers import destinations
from system.storage.files import Folder
from tuning.run.figures import FIGURE, TASKS_DONE
from tuning.run.trial import SweepTrial
from tuning.run.trial_table import Board
from tuning.search.sweep_plan import Trial

#: What a trial that only waits for its own workers holds: Tune accepts no trial without anything,
#: and any part of a CPU could keep the last worker from its own.
WAITING_TRIAL = {"CPU": 0, "memory": 1 << 20}

Propose = Callable[[], Trial | None]
Settled = Callable[[Trial], None]


@dataclass(frozen=True)
class Packing:
    """How many trials run at a time, and what Tune reserves for each."""

    concurrent: int
    resources: Mapping[str, float]

    @classmethod
    def of(cls, cluster: ClusterConfig, max_concurrent: int | None) -> "Packing":
        """As many as the connected cluster carries.

        With `cluster.workers=0` a trial trains in its own process and holds its CPU. Otherwise its
        workers hold theirs, and so many trials run that all of them have their workers. Raises
        ConfigError with the arithmetic when not even one does, or not `max_concurrent`.
        """
        processes = max(cluster.workers, 1)
        need = {"CPU": processes * cluster.cpus_per_worker}
        if cluster.gpu:
            need["GPU"] = float(processes)
        workers, nodes = workers_that_fit(cluster)
        fit, wanted = workers // processes, max_concurrent or 1
        if fit < wanted:
            each = " and ".join(f"{amount / processes:g} {name}s" for name, amount in need.items())
            raise ConfigError(
                f"{wanted} trials at a time need {wanted} x {processes} processes of {each}, and "
                f"{workers} of them fit on the cluster's nodes, which have {nodes}; lower "
                "tune.max_concurrent or cluster.workers (0: a trial trains in its own process)"
            )
        resources = need if cluster.workers == 0 else WAITING_TRIAL
        return cls(max_concurrent or fit, resources)


class NotKept:
    """Tune pickles its parts for a restore that is not used here: of ours nothing is kept."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialQueue(NotKept, Searcher):
    """Hands Tune the next trial that is worth running, at the moment there is room for it."""

    def __init__(
        self,
        board: Board,
        propose: Propose,
        settled: Settled,
        metric: list[str],
        streams: SharedStreams | None,
    ) -> None:
        super().__init__()
        self.board = board
        self.propose = propose
        self.settled = settled
        self.metric_names = metric
        self.streams = None if streams is None else streams.name
        self.names: dict[str, str] = {}  # Tune's id -> the trial's name

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial, or Tune's word for the end."""
        trial = next(self.board.to_run(), None) or self.propose()
        if trial is None:
            return str(Searcher.FINISHED)
        self.names[trial_id] = trial.name
        self.board.start(trial.name)
        return {
            "experiment": trial.experiment.to_dict(),
            "metric": self.metric_names,
            "streams": self.streams,
            "tasks": self.board.rule.tasks,
            "logs": destinations(trial.experiment),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial finished, failed or was stopped."""
        name = self.names[trial_id]
        if result is not None and TASKS_DONE in result:  # the last one comes here alone
            self.board.report(name, result[TASKS_DONE], result[FIGURE])
        self.board.end(name, failed=error)
        self.settled(self.board.entries[name].trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' directories tell all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class BoardScheduler(NotKept, FIFOScheduler):
    """Ends trials by the board's verdicts.

    A trial is not killed: it is halted, and ends in an orderly way within a step. If it
    were killed, Ray Train would leave the workers' placement group behind for as long as the driver
    lives (ray#54305), and the next trial would wait for ever.
    """

    def __init__(self, board: Board, streams: SharedStreams | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.board = board
        self.streams = streams
        self.halted: set[str] = set()

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Enter the report, and halt what is stopped now: this trial, or one that was ahead."""
        name = trial.config["experiment"]["run_name"]
        self.board.report(name, result[TASKS_DONE], result[FIGURE])
        running = {n for n, entry in self.board.entries.items() if entry.state == "running"}
        for stopped in (running & self.board.stops().keys()) - self.halted:
            if self.streams is not None:
                self.streams.halt(stopped)
                self.halted.add(stopped)
        return str(TrialScheduler.CONTINUE)


class Shown(NotKept, Callback):
    """Lets the display look after each step of Tune's loop."""

    def __init__(self, show: Callable[[], None]) -> None:
        self.show = show

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Look again."""
        self.show()


def run_trials(
    board: Board,
    propose: Propose,
    settled: Settled,
    packing: Packing,
    streams: SharedStreams | None,
    metric: tuple[str, ...],
    folder: Folder,
    most: int,
    show: Callable[[], None],
) -> None:
    """Run what the board has to run, and what `propose` adds, until nothing is left.

    Ray is connected. `folder` is where Tune logs (TensorBoard events, progress of each trial),
    `most` the number of trials there can be, `settled` is told of each trial that ended. A trial
    that fails leaves the others alone.
    """
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # or Ctrl-C would look like a normal end
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are in the sweep's table
    tuner = tune.Tuner(
        tune.with_resources(SweepTrial, dict(packing.resources)),
        tune_config=tune.TuneConfig(
            search_alg=TrialQueue(board, propose, settled, list(metric), streams),
            scheduler=BoardScheduler(board, streams),
            num_samples=most,
            max_concurrent_trials=packing.concurrent,
            reuse_actors=True,  # a process takes seconds to start
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"start-{len(folder.names()) + 1:04d}",
            storage_path=folder.uri,
            verbose=0,
            callbacks=[Shown(show)],
        ),
    )
    tuner.fit()


def _name(trial: TuneTrial) -> str:
    return str(trial.config["experiment"]["run_name"])
