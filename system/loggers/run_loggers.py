"""All loggers of one run: told what the stream commits, and the final figures."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from system.config import ExperimentConfig
from system.errors import ConfigError, PromptideError
from system.loggers.logger import LOGGERS, LoggedRun, Logger
from system.loggers.points import Point, final_points, task_points

ALWAYS = "tensorboard"


def check_loggers(experiment: ExperimentConfig) -> None:
    """Raises ConfigError for a logger that is unknown, not installed or out of reach."""
    for name in _names(experiment):
        LOGGERS.get(name).check(experiment)


class RunLoggers:
    """A context manager. What a logger fails with later ends that logger and never the run."""

    def __init__(self, experiment: ExperimentConfig) -> None:
        self.experiment = experiment
        self.told = 0
        self.finished = False
        self.open: dict[str, Logger] = {}

    def __enter__(self) -> "RunLoggers":
        run = LoggedRun(self.experiment)
        for name in _names(self.experiment):
            try:
                self.open[name] = LOGGERS.get(name).open(run)
            except PromptideError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"{name} cannot log this run ({error}); mend it, or leave it out of loggers"
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._each(lambda logger: logger.close(self.finished))

    def learned(self, committed: Sequence[Mapping[str, Any]]) -> None:
        """Tell of the tasks that were committed since the last call."""
        epochs = self.experiment.stage.epochs
        for index in range(self.told, len(committed)):
            self._tell(task_points(committed[index], index, epochs), index)
        self.told = max(self.told, len(committed))

    def final(self, metrics: Mapping[str, Any]) -> None:
        """Tell the content of metrics.json: the run is at its end."""
        self._tell(final_points(metrics), len(metrics["tasks"]))
        self.finished = True

    def _tell(self, points: Iterable[Point], batch: int) -> None:
        told = list(points)
        self._each(lambda logger: logger.log(told, batch))

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self.open.items()):
            try:
                do(logger)
            except Exception as error:  # a tracker's server may go; the training does not
                del self.open[name]
                logging.getLogger("promptide").warning(
                    "%s has failed, and gets no more of this run: %s", name, error
                )


def _names(experiment: ExperimentConfig) -> list[str]:
    if len(set(experiment.loggers)) < len(experiment.loggers):
        raise ConfigError(f"loggers={list(experiment.loggers)} names one twice")
    return [ALWAYS, *(name for name in experiment.loggers if name != ALWAYS)]
