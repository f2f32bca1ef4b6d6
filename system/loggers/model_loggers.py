"""The loggers of a model's training: told the rows of its log, and the final figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from system.loggers.logger import LoggedConfig
from system.loggers.open_loggers import OpenLoggers
from system.loggers.points import epoch_points, figure_points
from system.storage.run_directory import MODEL_LOG


class ModelLoggers(OpenLoggers[LoggedConfig]):
    """Each epoch is a batch. `figures` are the keys of metrics.json that count."""

    def __init__(self, experiment: LoggedConfig, figures: Sequence[str]) -> None:
        super().__init__(experiment)
        self.figures = figures

    def trained(self, log: Sequence[Mapping[str, float]]) -> None:
        """Tell the rows that came to the training's log since the last call."""
        for index in range(self.told, len(log)):
            self.tell(epoch_points(log[index]), index)
        self.told = max(self.told, len(log))

    def final(self, metrics: Mapping[str, Any]) -> None:
        """Tell the content of metrics.json; the epochs too, of a model that was there already."""
        log = metrics[MODEL_LOG]
        self.trained(log)
        self.tell(figure_points(metrics, self.figures), len(log))
        self.finished = True
