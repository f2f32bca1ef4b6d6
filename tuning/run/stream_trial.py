"""A trial that is a whole stream, through the same code as `promptide run`."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typing_extensions import override

from actors.handle import SharedStreams
from actors.settings import StreamSettings
from actors.stream_run import StreamRun
from system.config.compose import experiment_of
from system.config.overrides import override as written
from system.config.schema import ExperimentConfig
from system.engine.model_stage import stage_of
from system.errors import ConfigError
from system.objectives.objective import OBJECTIVES, StreamObjective
from system.report.pages.rec_page import COLUMNS
from system.results.accuracy_matrix import AccuracyMatrix
from system.results.committed_rows import CommittedRows
from system.storage.run_directory import METRICS, MatrixFile, RunDirectory
from system.stream.preflight import check_experiment
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
from tuning.search.sweep_config import TuneConfig, counted

PHASES = ("features", "train", "evaluate")  # a worker's work: what does not depend on the driver


class StreamTrials(TrialKind[ExperimentConfig]):
    """Trials that are streams, scored by the average recall over the tasks learned so far."""

    name = "stream"
    leases_tasks = True

    @override
    def score_name(self, metric: Sequence[str]) -> tuple[str, str]:
        return "average recall", "%"

    @override
    def parse(self, values: Mapping[str, Any]) -> ExperimentConfig:
        return experiment_of(values)

    @override
    def label(self, experiment: ExperimentConfig) -> str:
        return str(experiment.method["name"])

    @override
    def recalls(self, experiment: ExperimentConfig) -> tuple[str, ...]:
        return _objective(experiment).recalls

    @override
    def check_tune(self, experiment: ExperimentConfig, config: TuneConfig) -> None:
        for metric in config.metric:
            if metric not in (known := self.recalls(experiment)):
                raise ConfigError(
                    f"tune.metric={list(config.metric)}: {metric!r} is not one of "
                    f"{', '.join(known)}, which a stream of stage.objective="
                    f"{experiment.stage.objective} is evaluated with"
                )

    @override
    def check(self, experiment: ExperimentConfig) -> tuple[str, ...]:
        if experiment.stream.live:
            raise ConfigError("stream.live=true: a trial would wait for tasks; set it to false")
        tasks = check_experiment(experiment).tasks
        for earlier in _objective(experiment).before(experiment):
            stage_of(earlier).finished(earlier)  # checks its config and data
        return tasks

    @override
    def record(self, experiment: ExperimentConfig, metric: Sequence[str]) -> TrialRecord:
        directory = RunDirectory.of(experiment)
        folder = directory.folder
        if folder.exists(METRICS):
            metrics = folder.read_json(METRICS)
            matrix = AccuracyMatrix.from_columns(MatrixFile.of(folder))
            return TrialRecord(averages_so_far(matrix, metric), metrics, None)
        failure = folder.read_json(FAILURE)["message"] if folder.exists(FAILURE) else None
        if not directory.stream.names():
            return TrialRecord([], None, failure)
        stream = StreamSettings.begun(experiment).open()
        averages = AveragesSoFar(metric)
        for payload in stream.committed(experiment.run_name):
            averages.add(payload)
        return TrialRecord(averages.scores, None, failure)

    @override
    def run(
        self,
        experiment: ExperimentConfig,
        metric: Sequence[str],
        tasks: int,
        reports: Reports,
        streams: SharedStreams | None,
    ) -> None:
        """Raises StreamHaltedError when the sweep stopped it."""
        task_reports = TaskReports(metric, tasks, reports)
        run = StreamRun(experiment, streams, tasks)
        run.check()
        complete_trial(run, task_reports.learned)
        task_reports.learned(run.left.committed, done=True)

    @override
    def rate_choice(self, experiment: ExperimentConfig, tasks: int) -> RateChoice | None:
        if not _trains(experiment):
            return None
        checked = check_experiment(experiment)
        members = [entry.name for entry in checked.manifest.task(checked.tasks[0]).parts]
        found = tuple(members or checked.tasks)
        if len(found) < tasks:
            raise ConfigError(
                f"tune.rate_tasks={tasks}, but the stream has {counted(len(found))}; set it to "
                f"{len(found)}, or remove tune.learning_rates"
            )
        # Of joined tasks as many expressions of the first ones as of all together, so that the
        # short run is as long as the experiment itself.
        more = [] if not experiment.benchmark.held_out else ["benchmark.held_out=[]"]
        for key, count in (
            ("stage.train_expressions", experiment.stage.train_expressions),
            ("evaluation.expressions", experiment.evaluation.expressions),
        ):
            if members and count is not None:
                more.append(written(key, count * len(members) // tasks))
        return RateChoice(found[:tasks], ("evaluation.split=val", *more), bool(members))

    @override
    def columns(self, experiment: ExperimentConfig, record: TrialRecord) -> dict[str, Any]:
        metrics = record.metrics or {}
        rate = experiment.stage.optimiser.learning_rate if _trains(experiment) else None
        kind = _objective(experiment).method_kind(experiment)
        row: dict[str, Any] = {
            "method": self.label(experiment),
            "sharing": kind.sharing,
            "learning_rate": rate,
        }
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

    @override
    def evaluated_with(self, experiment: ExperimentConfig) -> str:
        evaluation = experiment.evaluation
        splits = ", ".join(evaluation.splits)
        if experiment.stream.joined:
            return f"split: {splits}"
        return f"split: {splits}, gallery: {evaluation.gallery}"


class AveragesSoFar:
    """A trial's scores from what its stream commits, one after each task.

    Each is the mean over `metrics` and the tasks j <= t of R[t, j]. It is None where an entry is
    undefined or was not evaluated (joint training is evaluated after the last task only); a task
    without a query in the split is left out.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        self.scores: list[float | None] = []
        self._rows = CommittedRows()
        self._empty: dict[str, set[int]] = {metric: set() for metric in metrics}

    def add(self, payload: Mapping[str, Any]) -> None:
        """The next task's score, from what was committed for it."""
        task, values = len(self.scores), {}
        for block in self._rows.unpack(payload["rows"]):
            if block.metric in self._empty:
                self._empty[block.metric].update(block.evaluated[block.queries == 0].tolist())
                if block.trained_index == task:
                    evaluated = block.evaluated.tolist()
                    values[block.metric] = dict(zip(evaluated, block.values.tolist(), strict=True))
        self.scores.append(
            _average(
                values.get(metric, {}).get(j, math.nan)
                for metric, empty in self._empty.items()
                for j in range(task + 1)
                if j not in empty
            )
        )


def averages_so_far(matrix: AccuracyMatrix, metrics: Sequence[str]) -> list[float | None]:
    """The scores of a finished trial: those of `AveragesSoFar`, from its accuracy matrix."""
    judged = {m: [matrix.has_queries(m, j) for j in range(len(matrix.tasks))] for m in metrics}
    return [
        _average(
            value
            for metric in metrics
            for value, counts in zip(
                matrix.values_after(metric, task)[: task + 1].tolist(),
                judged[metric][: task + 1],
                strict=True,
            )
            if counts
        )
        for task in range(len(matrix.tasks))
    ]


def _average(values: Iterable[float]) -> float | None:
    cells = list(values)
    return sum(cells) / len(cells) if cells and not any(map(math.isnan, cells)) else None


class TaskReports:
    """Passes on the average recall so far after each task, each task once and in order."""

    def __init__(self, metric: Sequence[str], tasks: int, reports: Reports) -> None:
        self.averages = AveragesSoFar(metric)
        self.tasks = tasks
        self.reports = reports
        self.reported = 0

    def learned(self, committed: Sequence[Mapping[str, Any]], done: bool = False) -> None:
        """Report newly committed tasks; the last task only when all files are written (`done`)."""
        # Only the new ones: all of them after each task would be the square of the tasks.
        for payload in committed[len(self.averages.scores) :]:
            self.averages.add(payload)
        upto = len(committed) if done else min(len(committed), self.tasks - 1)
        for task in range(self.reported, upto):
            score = self.averages.scores[task]
            self.reports.put(
                {
                    SCORE: float("nan") if score is None else score,
                    TASKS_DONE: task + 1,
                    "done": task + 1 == self.tasks,
                }
            )
        self.reported = max(self.reported, upto)


def _objective(experiment: ExperimentConfig) -> StreamObjective:
    return OBJECTIVES.get(experiment.stage.objective)


def _trains(experiment: ExperimentConfig) -> bool:
    return _objective(experiment).method_kind(experiment).trains_on != "nothing"
