"""Weights & Biases: one run there per run of ours, on its server or in files for `wandb sync`.

It is configured by its own variables (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_DIR). Without
WANDB_API_KEY or WANDB_MODE it is offline, and then the run directory has to be a local one, or
WANDB_DIR set: a `wandb/` in the working directory of a job would be lost with it.
"""

import os
import uuid
from collections.abc import Sequence
from typing import Any

from system.errors import ConfigError
from system.loggers.logger import LoggedConfig, LoggedRun
from system.loggers.points import Point
from system.redaction import without_credentials

PROJECT = "promptide"
STATE = "wandb.json"  # in the run directory: the id of the run there, the batches logged
#: The x axis of each family of curves.
CLOCKS = {"train": "epoch", "eval": "tasks", "held_out": "tasks", "final": "tasks"}


class WandbLog:
    """An open run of Weights & Biases."""

    def __init__(self, run: LoggedRun) -> None:
        wandb = imported()
        self.folder = run.folder
        state = self.folder.read_json(STATE) if self.folder.exists(STATE) else {}
        self.id = str(state.get("run") or uuid.uuid4().hex[:12])
        self.batches: list[int] = list(state.get("batches", []))
        self.run = wandb.init(
            project=project(),
            name=run.name,
            id=self.id,
            resume="allow",
            mode=mode(),
            dir=local_folder(run),
            config=run.settings,
            reinit="create_new",  # trials of a sweep share processes
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
        for family, clock in CLOCKS.items():
            self.run.define_metric(f"{family}/*", step_metric=clock)
        self._save()

    def log(self, points: Sequence[Point], batch: int) -> None:
        """Add the points, unless the batch is there already."""
        if batch in self.batches:
            return
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for point in points:
            clock = CLOCKS[point.name.partition("/")[0]]
            row = rows.setdefault((clock, point.step), {clock: point.step})
            row[point.name] = point.value
        for row in rows.values():
            self.run.log(row)
        self.batches.append(batch)
        self._save()

    def close(self, finished: bool) -> None:
        """Upload or write the rest, and set the status of the run there."""
        self.run.finish(exit_code=0 if finished else 1)
        # Its service loses what a run of the same id logs in the same process a second time.
        imported().teardown()

    def _save(self) -> None:
        self.folder.write_json(STATE, {"run": self.id, "batches": self.batches})


class Wandb:
    """The logger `wandb`."""

    variables: tuple[str, ...] = (
        "WANDB_API_KEY",
        "WANDB_MODE",
        "WANDB_PROJECT",
        "WANDB_ENTITY",
        "WANDB_BASE_URL",
    )

    def check(self, experiment: LoggedConfig) -> None:
        """Raises ConfigError if the package is missing, or offline files would be lost."""
        imported()
        local_folder(LoggedRun(experiment))

    def destination(self, experiment: LoggedConfig) -> str:
        """The mode, project, entity and server, without the key."""
        entity = os.environ.get("WANDB_ENTITY") or "the default entity"
        server = os.environ.get("WANDB_BASE_URL") or "the default server"
        return without_credentials(f"{mode()}, project {project()} of {entity} at {server}")

    def open(self, run: LoggedRun) -> WandbLog:
        """Begin or resume the run there."""
        return WandbLog(run)


def imported() -> Any:
    """The package. Raises ConfigError if it is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "loggers=[wandb] needs Weights & Biases: pip install 'promptide[wandb]'"
        ) from error
    return wandb


def project() -> str:
    """WANDB_PROJECT, or the default."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def mode() -> str:
    """WANDB_MODE; by default online with a key, else offline. Raises ConfigError if unknown."""
    named = os.environ.get("WANDB_MODE")
    if named not in (None, "", "online", "offline", "disabled", "shared"):
        raise ConfigError(f"WANDB_MODE={named} is not one of: online, offline, disabled, shared")
    return named or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


def local_folder(run: LoggedRun) -> str | None:
    """The folder of its files; None where a server has everything.

    Raises ConfigError where offline files would be lost, or as `mode` does.
    """
    named, where = mode(), run.experiment.storage_path
    folder = os.environ.get("WANDB_DIR")
    if folder or "://" not in where:
        return folder or run.folder.uri
    if named == "offline":
        raise ConfigError(
            f"loggers=[wandb] is offline and cannot keep its files in storage_path={where}; set "
            "WANDB_API_KEY, or WANDB_DIR to a folder that stays"
        )
    return None


LOGGER = Wandb()
