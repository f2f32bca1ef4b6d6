"""All loggers of one run, open while it goes on: whatever a run tells them goes through here."""

import logging
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from system.errors import ConfigError, PromptideError
from system.loggers.logger import LOGGERS, LoggedConfig, LoggedRun, Logger
from system.loggers.points import Curves, Point
from system.redaction import redacted

ALWAYS = "tensorboard"
Own = TypeVar("Own", bound="RunLoggers")


def check_loggers(experiment: LoggedConfig) -> None:
    """Raises ConfigError for a logger that is unknown, not installed or out of reach."""
    for name in _names(experiment):
        LOGGERS.get(name).check(experiment)


def destinations(experiment: LoggedConfig) -> dict[str, str]:
    """Where each logger sends a run from this process, for `require_destinations` in another."""
    return {name: LOGGERS.get(name).destination(experiment) for name in _names(experiment)}


def require_destinations(experiment: LoggedConfig, meant: Mapping[str, str]) -> None:
    """Raises ConfigError if the variables of this process send a run elsewhere than `meant`.

    The nodes of a running cluster have not those of the command that uses it.
    """
    for name, here in destinations(experiment).items():
        if here != meant[name]:
            variables = ", ".join(LOGGERS.get(name).variables)
            raise ConfigError(
                f"{name} is meant to log to: {meant[name]}; on node {platform.node()} it would to: "
                f"{here}. Set there what is set here of {variables}: with submit.env, or where Ray "
                "is started"
            )


class RunLoggers:
    """A context manager. What a logger fails with later ends that logger and never the run."""

    def __init__(self, experiment: LoggedConfig, curves: Curves) -> None:
        self.experiment = experiment
        self.curves = curves
        self.reported = 0  # batches: tasks or epochs
        self.finished = False
        self.open: dict[str, Logger] = {}

    def __enter__(self: Own) -> Own:
        run = LoggedRun(self.experiment)
        for name in _names(self.experiment):
            try:
                self.open[name] = LOGGERS.get(name).open(run)
            except PromptideError:
                self._close()  # those that are open, or their server shows them running for ever
                raise
            except Exception as error:
                self._close()
                said = redacted(str(error))
                # Not from the error: tracebacks of trials are kept, and it may hold a password.
                raise ConfigError(
                    f"{name} cannot log this run ({said}); mend it, or leave it out of loggers"
                ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._each(lambda logger: logger.close(self.finished))

    def learned(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Pass on what is new since the last call in all that was learned so far."""
        for index in range(self.reported, len(rows)):
            self.tell(self.curves.of(rows[index], index), index)
        self.reported = max(self.reported, len(rows))

    def final(self, metrics: Mapping[str, Any]) -> None:
        """Pass on metrics.json: the run is at its end."""
        self.learned(self.curves.rows(metrics))  # of a model that was there already
        self.tell(self.curves.final(metrics), self.reported)
        self.finished = True

    def tell(self, points: Iterable[Point], batch: int) -> None:
        """Pass on a batch of points; see `Logger.log`."""
        batch_points = list(points)
        self._each(lambda logger: logger.log(batch_points, batch))

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self.open.items()):
            try:
                do(logger)
            except Exception as error:  # a tracker's server may go; the training does not
                del self.open[name]
                logging.getLogger("promptide").warning(
                    "%s has failed, and gets no more of this run: %s",
                    name,
                    redacted(str(error)),
                )


def _names(experiment: LoggedConfig) -> list[str]:
    if len(set(experiment.loggers)) < len(experiment.loggers):
        raise ConfigError(f"loggers={list(experiment.loggers)} names one twice")
    return [ALWAYS, *(name for name in experiment.loggers if name != ALWAYS)]
