"""The interface of the kinds of trial: a whole stream, or the training of a model."""

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from actors.drive import Learned, Place, Run, complete
from actors.handle import SharedStreams
from system.config.schema import ExperimentConfig
from system.engine.contents import contents_of
from system.engine.model_stage import ModelExperiment
from tuning.search.sweep_config import TuneConfig

FAILURE = "failure.json"  # why a trial's last attempt failed; deleted when it is tried again
# The keys of a report to Ray Tune:
SCORE = "score"  # the mean of the sweep's metrics
TASKS_DONE = "tasks_done"

Experiment = ExperimentConfig | ModelExperiment
Reports = queue.Queue[dict[str, Any] | BaseException]  # from a trial's thread to Ray Tune
E = TypeVar("E", bound=Experiment)


@dataclass(frozen=True)
class TrialRecord:
    """State of a trial as stored in its run directory, from which an interrupted sweep continues.

    Attributes:
        scores: the score after each finished task, None where it is undefined.
        metrics: metrics.json of a finished trial.
        failure: why the last attempt failed.
    """

    scores: list[float | None]
    metrics: dict[str, Any] | None
    failure: str | None

    @property
    def finished(self) -> bool:
        """Whether the trial reached its end; it is never run again."""
        return self.metrics is not None


@dataclass(frozen=True)
class RateChoice:
    """How a method's learning rate is chosen: by short runs on the first tasks' validation splits.

    Attributes:
        tasks: the tasks that the short runs learn, in the stream's order.
        overrides: further overrides of the short runs.
        joined: whether they are parts of one joined task.
    """

    tasks: tuple[str, ...]
    overrides: tuple[str, ...]
    joined: bool = False


class TrialKind(Protocol[E]):
    """Everything that differs between the kinds of trial; stateless.

    `metric` is `tune.metric` everywhere: the names of the metrics whose mean is a trial's score.
    """

    name: str
    leases_tasks: bool  # if so, the sweep starts one task stream actor for all its trials

    def score_name(self, metric: Sequence[str]) -> tuple[str, str]:
        """Name and unit of the score that trials are compared by."""
        ...

    def parse(self, values: Mapping[str, Any]) -> E:
        """The experiment of composed values. Raises ConfigError naming the field."""
        ...

    def label(self, experiment: E) -> str:
        """Name of the trained method or stage, used in directories and tables."""
        ...

    def recalls(self, experiment: E) -> tuple[str, ...]:
        """Recalls whose average and forgetting each trial has; empty for models."""
        ...

    def check_tune(self, experiment: E, config: TuneConfig) -> None:
        """Raises ConfigError for options of a sweep that this kind of trial does not support."""
        ...

    def check(self, experiment: E) -> tuple[str, ...]:
        """Check config and data as a run does; returns the tasks after which a trial is evaluated.

        Raises ConfigError or DataError.
        """
        ...

    def record(self, experiment: E, metric: Sequence[str]) -> TrialRecord:
        """The stored state of a trial, also of one that never started. Raises StorageError."""
        ...

    def run(
        self,
        experiment: E,
        metric: Sequence[str],
        tasks: int,
        reports: Reports,
        streams: SharedStreams | None,
    ) -> None:
        """Run or continue a trial up to `tasks` tasks and report the score after each of them.

        Ray is connected; `streams` is the sweep's, None if this kind leases no tasks. Raises the
        error that ends the trial.
        """
        ...

    def rate_choice(self, experiment: E, tasks: int) -> RateChoice | None:
        """How the learning rate can be chosen by the first `tasks` tasks; None if nothing trains.

        Raises the errors of `check`, and ConfigError if there are fewer tasks.
        """
        ...

    def columns(self, experiment: E, record: TrialRecord) -> dict[str, Any]:
        """Values of the columns of trials.parquet that only this kind of trial can fill."""
        ...

    def evaluated_with(self, experiment: E) -> str:
        """The data that scores are measured on, in words, for the page."""
        ...


def complete_trial(run: Run, learned: Learned | None = None) -> Mapping[str, Any] | None:
    """Complete a run that was checked, in a trial, after the runs whose models it builds on.

    Ray is connected, and the caller the only writer of the run's directory. Those other runs have
    directories of their own.
    """
    for earlier in () if run.finished else run.before():
        earlier.check()
        if not earlier.finished:
            earlier.directory.claim(earlier.experiment, contents_of(earlier.experiment))
            complete_trial(earlier)
    # Whoever takes over the making of a model makes the same one, to the bit.
    return complete(run, Place(on_lost=lambda: None), learned)
