"""What a trial can be: a whole stream, or the training of a model."""

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from actors.handle import SharedStreams
from system.config.schema import ExperimentConfig
from system.engine.model_stage import ModelExperiment
from tuning.run.records import TrialRecord
from tuning.search.sweep_config import TuneConfig

Experiment = ExperimentConfig | ModelExperiment
Reports = queue.Queue[dict[str, Any] | BaseException]  # what a trial tells Ray Tune, step by step
E = TypeVar("E", bound=Experiment)


@dataclass(frozen=True)
class RateChoice:
    """How learning rates are chosen for a method: on the validation split of the first task."""

    key: str  # of the config
    task: str
    overrides: tuple[str, ...]  # what else a short run differs in


class TrialKind(Protocol[E]):
    """All that a sweep has to know of its trials. Stateless."""

    name: str
    leases_tasks: bool  # from a task stream: the sweep starts one actor for all of them

    def measure(self, metric: Sequence[str]) -> tuple[str, str]:
        """The name of the figure that trials are compared by, and its unit."""
        ...

    def parse(self, values: Mapping[str, Any]) -> E:
        """The experiment of composed values. Raises ConfigError naming the field."""
        ...

    def label(self, experiment: E) -> str:
        """What is trained, in a word: for names of directories and tables."""
        ...

    def recalls(self, experiment: E) -> tuple[str, ...]:
        """The recalls of which trials have averages and forgetting; empty for models."""
        ...

    def check_tune(self, experiment: E, config: TuneConfig) -> None:
        """Raises ConfigError for what trials of this kind cannot be swept by."""
        ...

    def check(self, experiment: E) -> tuple[str, ...]:
        """The names of the tasks a trial is judged after, once all it needs was checked.

        Raises ConfigError or DataError as a run of its own does.
        """
        ...

    def record(self, experiment: E, metric: Sequence[str]) -> TrialRecord:
        """What the directory of a trial tells, begun or not. Raises StorageError."""
        ...

    def run(
        self,
        experiment: E,
        metric: Sequence[str],
        tasks: int,
        reports: Reports,
        streams: SharedStreams | None,
    ) -> None:
        """Run a trial, or go on with it, up to `tasks` tasks, and report a figure after each.

        Ray is connected; `streams` are the sweep's, if its kind has any. Raises what ends it.
        """
        ...

    def rate_choice(self, experiment: E) -> RateChoice | None:
        """How its learning rate can be chosen; None for what learns nothing.

        Raises what `check` raises.
        """
        ...

    def columns(self, experiment: E, record: TrialRecord) -> dict[str, Any]:
        """The cells of trials.parquet that tell of a finished trial, and what it trains."""
        ...

    def evaluated_with(self, experiment: E) -> str:
        """On what the figures rest, for the page."""
        ...


def kind_named(values: Mapping[str, Any]) -> TrialKind[Any]:
    """The kind of composed values: a model's stage has a name, the stream's has none."""
    from tuning.run.model_trial import ModelTrials
    from tuning.run.stream_trial import StreamTrials

    return ModelTrials() if "name" in values["stage"] else StreamTrials()


def kind_of(experiment: Experiment) -> TrialKind[Any]:
    """The kind of a parsed experiment."""
    return kind_named({"stage": experiment.to_dict()["stage"]})


def read_record(experiment: Experiment, metric: Sequence[str]) -> TrialRecord:
    """The record of a trial, begun or not. Raises StorageError."""
    return kind_of(experiment).record(experiment, metric)
