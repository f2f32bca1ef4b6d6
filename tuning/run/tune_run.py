"""Runs the trials of a trial table on Ray Tune.

Tune starts the trials, packs them on the cluster and passes on their reports. Which trials are
finished or stopped is the table's, which follows from the trials' own directories: nothing of
Tune's state has to survive the driver.
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
from typing_extensions import override

from actors.cluster import workers_that_fit
from actors.handle import SharedStreams
from system.config.schema import ClusterConfig
from system.errors import ConfigError
from system.loggers.run_loggers import destinations
from system.storage.files import Folder
from tuning.run.trial import SweepTrial
from tuning.run.trial_kind import SCORE, TASKS_DONE
from tuning.run.trial_table import TrialTable
from tuning.search.sweep_plan import Trial

# Resources of a trial that only waits for its workers. Tune accepts no trial without resources, and
# any fraction of a CPU could keep the last worker from its own.
WAITING_TRIAL = {"CPU": 0, "memory": 1 << 20}
RAY_UNITS = 10_000  # the parts that a resource is counted in

Propose = Callable[[], Trial | None]
Settled = Callable[[Trial], None]


@dataclass(frozen=True)
class Packing:
    """How many trials run at a time, and what Tune reserves for each."""

    concurrent: int
    resources: Mapping[str, float]

    @classmethod
    def of(
        cls, cluster: ClusterConfig, max_concurrent: int | None, trials_per_gpu: int = 1
    ) -> "Packing":
        """As many trials as fit on the connected cluster.

        With `cluster.workers=0` a trial trains in its own process and reserves its CPU, and its
        share of a GPU. Otherwise its workers reserve theirs, and only as many trials run as have
        all their workers. Raises ConfigError with the arithmetic when not even one trial fits, or
        not `max_concurrent`.
        """
        processes, share = max(cluster.workers, 1), share_of_gpu(trials_per_gpu)
        need = {"CPU": processes * cluster.cpus_per_worker}
        if cluster.gpu:
            need["GPU"] = processes * share
        workers, nodes = workers_that_fit(cluster, share)
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


def share_of_gpu(trials: int) -> float:
    """The part of a GPU that each of so many trials reserves.

    Ray counts in ten thousandths and rounds to the next one: six shares of 0.1667 would be more
    than the card, and the sixth trial would wait for the end of another.
    """
    return (RAY_UNITS // trials) / RAY_UNITS


class Unsaved:
    """Pickles as empty: Tune saves its parts for a restore, which is not used here."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialQueue(Unsaved, Searcher):
    """Gives Tune the next trial to run whenever there is room for one."""

    def __init__(
        self,
        table: TrialTable,
        propose: Propose,
        settled: Settled,
        metric: list[str],
        streams: SharedStreams | None,
    ) -> None:
        super().__init__()
        self.table = table
        self.propose = propose
        self.settled = settled
        self.metric_names = metric
        self.streams = None if streams is None else streams.name
        self.names: dict[str, str] = {}  # Tune's id -> the trial's name

    @override
    def suggest(self, trial_id: str) -> Any:
        trial = next(self.table.to_run(), None) or self.propose()
        if trial is None:
            return str(Searcher.FINISHED)
        self.names[trial_id] = trial.name
        self.table.start(trial.name)
        return {
            "experiment": trial.experiment.to_dict(),
            "metric": self.metric_names,
            "streams": self.streams,
            "tasks": self.table.rule.tasks,
            "logs": destinations(trial.experiment),
        }

    @override
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        name = self.names[trial_id]
        if result is not None and TASKS_DONE in result:  # the last report: the scheduler gets none
            self.table.report(name, result[TASKS_DONE], result[SCORE])
        self.table.end(name, failed=error)
        self.settled(self.table.entries[name].trial)

    @override
    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the state is in the trials' directories."""

    @override
    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see `save`."""


class PruningScheduler(Unsaved, FIFOScheduler):
    """Halts the trials that the trial table stops.

    A trial is not killed but halted, and ends by itself within a step. If it were killed, Ray Train
    would leave the workers' placement group behind for as long as the driver lives (ray#54305), and
    the next trial would wait for ever.
    """

    def __init__(self, table: TrialTable, streams: SharedStreams | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.streams = streams
        self.halted: set[str] = set()

    @override
    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        # The report may stop this trial, and others that were ahead of it.
        name = trial.config["experiment"]["run_name"]
        self.table.report(name, result[TASKS_DONE], result[SCORE])
        running = {n for n, entry in self.table.entries.items() if entry.state == "running"}
        for stopped in (running & self.table.stops().keys()) - self.halted:
            if self.streams is not None:
                self.streams.halt(stopped)
                self.halted.add(stopped)
        return str(TrialScheduler.CONTINUE)


class DisplayUpdate(Unsaved, Callback):
    """Updates the display after each step of Tune's loop."""

    def __init__(self, update: Callable[[], None]) -> None:
        self.update = update

    @override
    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self.update()


def run_trials(
    table: TrialTable,
    propose: Propose,
    settled: Settled,
    packing: Packing,
    streams: SharedStreams | None,
    metric: tuple[str, ...],
    folder: Folder,
    most: int,
    update: Callable[[], None],
) -> None:
    """Run all trials of the table that are not finished or stopped, and those that `propose` adds.

    Ray is connected. A failing trial does not affect the others.

    Args:
        propose: adds another trial to the table; None once there are no more.
        settled: called with each trial that ended.
        folder: for Tune's own logs (TensorBoard events, progress of each trial).
        most: upper bound on the number of trials.
        update: redraws the display; called often.
    """
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # else Ctrl-C looks like a normal end
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the sweep prints failures itself
    tuner = tune.Tuner(
        tune.with_resources(SweepTrial, dict(packing.resources)),
        tune_config=tune.TuneConfig(
            search_alg=TrialQueue(table, propose, settled, list(metric), streams),
            scheduler=PruningScheduler(table, streams),
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
            callbacks=[DisplayUpdate(update)],
        ),
    )
    tuner.fit()


def _name(trial: TuneTrial) -> str:
    return str(trial.config["experiment"]["run_name"])
