"""The loggers of a stream: told what it commits, and the final figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from system.config.schema import ExperimentConfig
from system.loggers.open_loggers import OpenLoggers
from system.loggers.points import final_points, task_points


class RunLoggers(OpenLoggers[ExperimentConfig]):
    """Each task is a batch."""

    def learned(self, committed: Sequence[Mapping[str, Any]]) -> None:
        """Tell of the tasks that were committed since the last call."""
        epochs = self.experiment.stage.epochs
        for index in range(self.told, len(committed)):
            self.tell(task_points(committed[index], index, epochs), index)
        self.told = max(self.told, len(committed))

    def final(self, metrics: Mapping[str, Any]) -> None:
        """Tell the content of metrics.json: the run is at its end."""
        self.tell(final_points(metrics), len(metrics["tasks"]))
        self.finished = True
