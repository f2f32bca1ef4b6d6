"""A trial that is a whole stream, through the same code as `promptide run`."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from system.results.committed_rows import unpacked
from system.storage.run_directory import ACCURACY_MATRIX, METRICS, RunDirectory
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
            rows: Iterable[Mapping[str, Any]] = folder.read_table(ACCURACY_MATRIX).to_pylist()
            return TrialRecord(recall_so_far(rows, metric, len(metrics["tasks"])), metrics, None)
        failure = folder.read_json(FAILURE)["message"] if folder.exists(FAILURE) else None
        if not directory.stream.names():
            return TrialRecord([], None, failure)
        stream = StreamSettings.begun(experiment).open()
        committed = stream.committed(experiment.run_name)
        rows = committed_rows(committed)
        return TrialRecord(recall_so_far(rows, metric, len(committed)), None, failure)

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


def committed_rows(committed: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of all that was committed, as accuracy_matrix.parquet has them."""
    for block in unpacked(payload["rows"] for payload in committed):
        for j, value, queries in zip(block.evaluated, block.values, block.queries, strict=True):
            yield {
                "trained_index": block.trained_index,
                "evaluated_index": int(j),
                "metric": block.metric,
                "value": float(value),
                "queries": int(queries),
            }


def recall_so_far(
    rows: Iterable[Mapping[str, Any]], metrics: Sequence[str], done: int
) -> list[float | None]:
    """For each of the first `done` tasks t: the mean over `metrics` and tasks j <= t of R[t, j].

    `rows` are those of accuracy_matrix.parquet, or of `committed_rows`. None where an
    entry is undefined or was not evaluated (joint training is evaluated after the last task only);
    a task without a query in the split is left out.
    """
    values: dict[tuple[str, int, int], float] = {}
    empty: set[tuple[str, int]] = set()
    for row in rows:
        if row.get("queries") == 0:
            empty.add((row["metric"], row["evaluated_index"]))
        value = row["value"]
        if value is not None and value == value:  # not NaN
            values[row["metric"], row["trained_index"], row["evaluated_index"]] = value
    scores: list[float | None] = []
    for task in range(done):
        judged = [(m, j) for m in metrics for j in range(task + 1) if (m, j) not in empty]
        cells = [values.get((m, task, j)) for m, j in judged]
        known = [cell for cell in cells if cell is not None]
        scores.append(sum(known) / len(known) if known and len(known) == len(cells) else None)
    return scores


class TaskReports:
    """Passes on the average recall so far after each task, each task once and in order."""

    def __init__(self, metric: Sequence[str], tasks: int, reports: Reports) -> None:
        self.metric = metric
        self.tasks = tasks
        self.reports = reports
        self.reported = 0

    def learned(self, committed: Sequence[Mapping[str, Any]], done: bool = False) -> None:
        """Report newly committed tasks; the last task only when all files are written (`done`)."""
        rows = committed_rows(committed)
        upto = len(committed) if done else min(len(committed), self.tasks - 1)
        scores = recall_so_far(rows, self.metric, upto)
        for task in range(self.reported, upto):
            score = scores[task]
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
