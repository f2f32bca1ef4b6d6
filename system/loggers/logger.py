"""The interface of loggers: one file each in this package, by the name in `loggers`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from system.loggers.points import Point
from system.registry import Registry
from system.storage.files import Folder
from system.storage.run_directory import RunConfig, RunDirectory


class LoggedConfig(RunConfig, Protocol):
    """The part of a run's config that loggers read."""

    @property
    def loggers(self) -> tuple[str, ...]:
        """Names of loggers beside the one that is always there."""
        ...


@dataclass(frozen=True)
class LoggedRun:
    """The run that is logged."""

    experiment: LoggedConfig

    @property
    def name(self) -> str:
        """The run's name; of a sweep's trial, the trial's."""
        return self.experiment.run_name

    @property
    def folder(self) -> Folder:
        """The run's directory."""
        return RunDirectory.of(self.experiment).folder

    @property
    def settings(self) -> dict[str, Any]:
        """The config as dotted keys and plain values."""
        return dict(_flat(self.experiment.to_dict()))


class Logger(Protocol):
    """An open log of one run."""

    def log(self, points: Sequence[Point], batch: int) -> None:
        """Log points; `batch` is the index of their task or epoch, or one more for the final ones.

        A batch is logged again when a run is started again: it must not count twice.
        """
        ...

    def close(self, finished: bool) -> None:
        """Write the rest; `finished` is False for a run that is resumed another time."""
        ...


class LoggerKind(Protocol):
    """A place to log to."""

    variables: tuple[str, ...]  # of the environment that set the destination

    def check(self, experiment: LoggedConfig) -> None:
        """Raises ConfigError if something is missing, before anything expensive starts."""
        ...

    def destination(self, experiment: LoggedConfig) -> str:
        """Description of the destination by this process's variables, the same for the same place.

        It holds no secret. Call it after `check`.
        """
        ...

    def open(self, run: LoggedRun) -> Logger:
        """Begin the log of a run, or resume it."""
        ...


LOGGERS: Registry[LoggerKind] = Registry("logger", "system.loggers", "LOGGER")


def _flat(values: dict[str, Any], where: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{where}{key}"
        if isinstance(value, dict):
            found += _flat(value, f"{name}.")
        else:
            found.append((name, list(value) if isinstance(value, tuple) else value))
    return found
