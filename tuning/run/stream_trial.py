"""A trial that is a whole stream, through the same code as `promptide run`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actors.handle import SharedStreams
from actors.settings import StreamSettings
from actors.stream_run import StreamRun
from system.config.compose import experiment_of, override
from system.config.schema import ExperimentConfig
from system.engine.model_stage import stage_of
from system.errors import ConfigError
from system.objectives.objective import OBJECTIVES, StreamObjective
from system.report.pages.rec_page import COLUMNS
from system.storage.run_directory import ACCURACY_MATRIX, METRICS, RunDirectory
from system.stream.preflight import check_experiment
from tuning.run.trial_kind import (
    FAILURE,
    SCORE,
    TASKS_DONE,
    RateChoice,
    Reports,
    TrialRecord,
    complete_trial,
)
from tuning.search.sweep_config import TuneConfig

PHASES = ("features", "train", "evaluate")  # a worker's work: what does not depend on the driver


class StreamTrials:
    """See `TrialKind`; the figure is the average recall over the tasks learned so far."""

    name = "stream"
    leases_tasks = True

    def measure(self, metric: Sequence[str]) -> tuple[str, str]:
        """The page names the metrics whose mean it is."""
        return "average recall", "%"

    def parse(self, values: Mapping[str, Any]) -> ExperimentConfig:
        """The experiment of composed values."""
        return experiment_of(values)

    def label(self, experiment: ExperimentConfig) -> str:
        """The method's name."""
        return str(experiment.method["name"])

    def recalls(self, experiment: ExperimentConfig) -> tuple[str, ...]:
        """Those of the stream's objective."""
        return _objective(experiment).recalls

    def check_tune(self, experiment: ExperimentConfig, config: TuneConfig) -> None:
        """Raises ConfigError for a metric that streams have not."""
        for metric in config.metric:
            if metric not in (known := self.recalls(experiment)):
                raise ConfigError(
                    f"tune.metric={list(config.metric)}: {metric!r} is not one of "
                    f"{', '.join(known)}, which a stream of stage.objective="
                    f"{experiment.stage.objective} is judged by"
                )

    def check(self, experiment: ExperimentConfig) -> tuple[str, ...]:
        """The tasks of the stream, in order."""
        if experiment.stream.live:
            raise ConfigError("stream.live=true: a trial would wait for tasks; set it to false")
        tasks = check_experiment(experiment).tasks
        for earlier in _objective(experiment).before(experiment):
            stage_of(earlier).finished(earlier)  # checks its settings and data
        return tasks

    def record(self, experiment: ExperimentConfig, metric: Sequence[str]) -> TrialRecord:
        """From the trial's metrics and matrix, or from its stream's journal."""
        directory = RunDirectory.of(experiment)
        folder = directory.folder
        if folder.exists(METRICS):
            metrics = folder.read_json(METRICS)
            rows = folder.read_table(ACCURACY_MATRIX).to_pylist()
            return TrialRecord(recall_so_far(rows, metric, len(metrics["tasks"])), metrics, None)
        failure = folder.read_json(FAILURE)["message"] if folder.exists(FAILURE) else None
        if not directory.stream.names():
            return TrialRecord([], None, failure)
        stream = StreamSettings.begun(experiment).open()
        committed = stream.committed(experiment.run_name)
        rows = [row for payload in committed for row in payload["rows"]]
        return TrialRecord(recall_so_far(rows, metric, len(committed)), None, failure)

    def run(
        self,
        experiment: ExperimentConfig,
        metric: Sequence[str],
        tasks: int,
        reports: Reports,
        streams: SharedStreams | None,
    ) -> None:
        """Learn the stream, and at its end write the figures.

        Raises StreamHaltedError when the sweep stopped it.
        """
        told = TaskReports(metric, tasks, reports)
        run = StreamRun(experiment, streams, tasks)
        run.check()
        complete_trial(run, told.learned)
        told.learned(run.left.committed, done=True)

    def rate_choice(self, experiment: ExperimentConfig) -> RateChoice | None:
        """By the recall on the first task's validation split.

        Of joined tasks it takes as many expressions of the first one as of all together, so that
        the short run is as long as the experiment itself.
        """
        if not _trains(experiment):
            return None
        checked = check_experiment(experiment)
        members = [entry.name for entry in checked.manifest.task(checked.tasks[0]).parts]
        more = []
        for key, count in (
            ("stage.train_expressions", experiment.stage.train_expressions),
            ("evaluation.expressions", experiment.evaluation.expressions),
        ):
            if members and count is not None:
                more.append(override(key, count * len(members)))
        task = members[0] if members else checked.tasks[0]
        return RateChoice(task, ("evaluation.split=val", *more))

    def columns(self, experiment: ExperimentConfig, record: TrialRecord) -> dict[str, Any]:
        """Averages, forgetting and zero-shot recall, numbers trained, seconds of work."""
        metrics = record.metrics or {}
        rate = experiment.stage.optimiser.learning_rate if _trains(experiment) else None
        row: dict[str, Any] = {"method": self.label(experiment), "learning_rate": rate}
        if not metrics:
            return row
        seconds = sum(metrics["wall_seconds"].get(phase, 0.0) for phase in PHASES)
        row |= {
            "trainable_parameters": metrics["trainable_parameters"],
            "trainable_parameters_per_task": metrics["trainable_parameters_per_task"],
            "seconds": seconds,
            "seconds_per_task": seconds / len(metrics["tasks"]),
        }
        sections = (
            ("average", metrics["average"]),
            ("forgetting", metrics["forgetting"]),
            ("zero_shot", metrics["zero_shot"].get("average", {})),
        )
        for section, values in sections:
            recalls = self.recalls(experiment)
            row |= {f"{section}_{metric}": values.get(metric) for metric in recalls}
        if experiment.stream.joined:  # a single task: nothing is forgotten, so other columns
            found = {title: metrics["average"].get(key) for key, title in COLUMNS.items()}
            row["shown"] = json.dumps(found)
        return row

    def evaluated_with(self, experiment: ExperimentConfig) -> str:
        """The split and the gallery."""
        evaluation = experiment.evaluation
        splits = ", ".join(evaluation.splits)
        if experiment.stream.joined:
            return f"split: {splits}"
        return f"split: {splits}, gallery: {evaluation.gallery}"


def recall_so_far(
    rows: Iterable[Mapping[str, Any]], metrics: Sequence[str], done: int
) -> list[float | None]:
    """For each of the first `done` tasks t: the mean over `metrics` and tasks j <= t of R[t, j].

    `rows` are those of accuracy_matrix.parquet, also as committed to the stream. None where an
    entry is undefined or was not evaluated (joint training is evaluated after the last task only).
    """
    values: dict[tuple[str, int, int], float] = {}
    for row in rows:
        value = row["value"]
        if value is not None and value == value:  # not NaN
            values[row["metric"], row["trained_index"], row["evaluated_index"]] = value
    scores: list[float | None] = []
    for task in range(done):
        cells = [values.get((m, task, j)) for m in metrics for j in range(task + 1)]
        known = [cell for cell in cells if cell is not None]
        scores.append(sum(known) / len(known) if len(known) == len(cells) else None)
    return scores


class TaskReports:
    """Passes on the average recall so far after each task, each task once and in order."""

    def __init__(self, metric: Sequence[str], tasks: int, reports: Reports) -> None:
        self.metric = metric
        self.tasks = tasks
        self.reports = reports
        self.told = 0

    def learned(self, committed: Sequence[Mapping[str, Any]], done: bool = False) -> None:
        """Tell what is new in what the stream committed; the last task once all files are there."""
        rows = [row for payload in committed for row in payload["rows"]]
        upto = len(committed) if done else min(len(committed), self.tasks - 1)
        figures = recall_so_far(rows, self.metric, upto)
        for task in range(self.told, upto):
            figure = figures[task]
            self.reports.put(
                {
                    SCORE: float("nan") if figure is None else figure,
                    TASKS_DONE: task + 1,
                    "done": task + 1 == self.tasks,
                }
            )
        self.told = max(self.told, upto)


def _objective(experiment: ExperimentConfig) -> StreamObjective:
    return OBJECTIVES.get(experiment.stage.objective)


def _trains(experiment: ExperimentConfig) -> bool:
    return _objective(experiment).method_kind(experiment).trains_on != "nothing"
