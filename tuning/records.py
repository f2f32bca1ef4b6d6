"""What a trial's run directory tells about it: the one truth of a sweep that is started again."""

from dataclasses import dataclass
from typing import Any

from actors.stream_state import TaskStream
from system.config import ExperimentConfig
from system.data.manifest import Manifest
from system.storage.run_directory import ACCURACY_MATRIX, METRICS, RunDirectory
from tuning.figures import recall_so_far

FAILURE = "failure.json"  # why a trial's last attempt ended, while it has not been mended


@dataclass(frozen=True)
class TrialRecord:
    """How far a trial came: its figure after each task, and its final figures once it finished."""

    figures: list[float | None]
    metrics: dict[str, Any] | None
    failure: str | None

    @property
    def finished(self) -> bool:
        """Whether the trial went to its end; it is then never run again."""
        return self.metrics is not None


def read_record(experiment: ExperimentConfig, metric: tuple[str, ...]) -> TrialRecord:
    """The record of a trial, begun or not.

    Raises StorageError for a directory whose files cannot be read.
    """
    directory = RunDirectory.of(experiment)
    folder = directory.folder
    if folder.exists(METRICS):
        metrics = folder.read_json(METRICS)
        rows = folder.read_table(ACCURACY_MATRIX).to_pylist()
        return TrialRecord(recall_so_far(rows, metric, len(metrics["tasks"])), metrics, None)
    failure = folder.read_json(FAILURE)["message"] if folder.exists(FAILURE) else None
    if not directory.stream.names():
        return TrialRecord([], None, failure)
    stream = TaskStream(
        directory.stream.uri,
        Manifest.load(experiment.benchmark_folder().uri),
        experiment.benchmark.tasks,
        evaluation_split=experiment.evaluation.split,
    )
    committed = stream.committed(experiment.run_name)
    rows = [row for payload in committed for row in payload["rows"]]
    return TrialRecord(recall_so_far(rows, metric, len(committed)), None, failure)
