"""A trial that trains one model, through the same code as `promptide run` of a model's stage."""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from actors.handle import SharedStreams
from actors.model_run import ModelRun
from system.engine.model_stage import ModelExperiment, model_experiment, stage_of
from system.errors import ConfigError
from system.loggers.run_loggers import check_loggers
from system.storage.run_directory import METRICS, RunDirectory
from tuning.run.trial_kind import (
    FAILURE,
    SCORE,
    TASKS_DONE,
    RateChoice,
    Reports,
    TrialKind,
    TrialRecord,
    complete_trial,
)
from tuning.search.sweep_config import TuneConfig

TAKE_METHODS = ("methods", "learning_rates")  # keys of `tune` for what trains a method
SECONDS = "seconds.json"  # of its own training; null if interrupted, or found ready


class ModelTrials(TrialKind[ModelExperiment]):
    """Trainings of one model, scored by a metric that the stage writes into metrics.json."""

    name = "model"
    leases_tasks = False

    @override
    def score_name(self, metric: Sequence[str]) -> tuple[str, str]:
        return ("" if len(metric) == 1 else "mean of ") + ", ".join(metric), ""

    @override
    def parse(self, values: Mapping[str, Any]) -> ModelExperiment:
        return model_experiment(values)

    @override
    def label(self, experiment: ModelExperiment) -> str:
        return str(experiment.stage["name"])

    @override
    def rate_choice(self, experiment: ModelExperiment, tasks: int) -> RateChoice | None:
        return None  # there is no method whose rate could be chosen

    @override
    def recalls(self, experiment: ModelExperiment) -> tuple[str, ...]:
        return ()  # a model has the metrics of its stage

    @override
    def check_tune(self, experiment: ModelExperiment, config: TuneConfig) -> None:
        name, known = self.label(experiment), stage_of(experiment).metrics
        for metric in config.metric:
            if metric not in known:
                raise ConfigError(
                    f"tune.metric={list(config.metric)}: a sweep of stage {name!r} goes by "
                    f"{' or '.join(known)}"
                )
        if config.scheduler != "none":
            raise ConfigError(
                f"tune.scheduler={config.scheduler} compares trials after each task of a stream; "
                f"stage {name!r} is evaluated once, at its end: use tune.scheduler=none"
            )
        for key in TAKE_METHODS:
            if getattr(config, key):
                raise ConfigError(
                    f"tune.{key} is for sweeps over streams; for stage {name!r} name keys under "
                    "tune.space"
                )

    @override
    def check(self, experiment: ModelExperiment) -> tuple[str, ...]:
        check_loggers(experiment)
        stage_of(experiment).finished(experiment)  # checks config and data, whatever it returns
        return (self.label(experiment),)

    @override
    def record(self, experiment: ModelExperiment, metric: Sequence[str]) -> TrialRecord:
        folder = RunDirectory.of(experiment).folder
        if folder.exists(METRICS):
            metrics = folder.read_json(METRICS)
            return TrialRecord([_score(metrics, metric)], metrics, None)
        failure = folder.read_json(FAILURE)["message"] if folder.exists(FAILURE) else None
        return TrialRecord([], None, failure)

    @override
    def run(
        self,
        experiment: ModelExperiment,
        metric: Sequence[str],
        tasks: int,
        reports: Reports,
        streams: SharedStreams | None,
    ) -> None:
        """Train and evaluate the model; one with the same config and data is not trained again."""
        folder = RunDirectory.of(experiment).folder
        fresh = not folder.exists(SECONDS)
        folder.write_json(SECONDS, {"seconds": None})
        run = ModelRun(experiment)
        run.check()
        metrics = complete_trial(run)
        assert metrics is not None, "a model's training does not go on later"
        if fresh and run.seconds is not None:
            folder.write_json(SECONDS, {"seconds": run.seconds})
        score = _score(metrics, metric)
        reported = float("nan") if score is None else score
        reports.put({SCORE: reported, TASKS_DONE: 1, "done": True})

    @override
    def columns(self, experiment: ModelExperiment, record: TrialRecord) -> dict[str, Any]:
        row: dict[str, Any] = {"method": self.label(experiment)}
        folder = RunDirectory.of(experiment).folder
        if record.metrics is None:
            return row
        row["trainable_parameters"] = record.metrics.get("trainable_parameters")
        if folder.exists(SECONDS):
            row["seconds"] = folder.read_json(SECONDS)["seconds"]
        return row

    @override
    def evaluated_with(self, experiment: ModelExperiment) -> str:
        return f"stage: {self.label(experiment)}"


def _score(metrics: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """The mean of the named metrics; None where one of them is undefined."""
    values = [_at(metrics, name) for name in names]
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _at(metrics: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(operator.getitem, key.split("."), metrics)
