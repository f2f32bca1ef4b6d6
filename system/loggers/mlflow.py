"""MLflow: one run there for each of ours, in the store of MLFLOW_TRACKING_URI or a local file.

Without that variable the store is `mlflow.db` (SQLite) beside the run directory; `mlflow ui
--backend-store-uri sqlite:///runs/mlflow.db` shows it. Of a sweep's trials that is
`runs/<sweep>/trials/mlflow.db`, and another beside the short runs in `runs/<sweep>/learning_rates`.
MLFLOW_EXPERIMENT_NAME names the experiment.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from system.errors import ConfigError
from system.loggers.logger import LoggedConfig, LoggedRun
from system.loggers.points import Point
from system.redaction import without_credentials

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

URI, NAME = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
DATABASE = "mlflow.db"
EXPERIMENT = "promptide"
STATE = "mlflow.json"  # in the run directory: the id of MLflow's run, the batches logged
MOST_IN_A_CALL = 1000  # metrics, by MLflow's own limit
LONGEST_VALUE = 6000  # characters of a parameter


class MlflowLog:
    """The MLflow run of one of ours."""

    def __init__(self, run: LoggedRun) -> None:
        self.folder = run.folder
        self.client, self.experiment = connect(run.experiment)
        self.batches: list[int] = []
        self.store = fingerprint(store(run.experiment))
        if self.folder.exists(STATE):
            state = self.folder.read_json(STATE)
            # Earlier files have the URI itself, which may hold a password: it is written over.
            found = state.get("store_sha256") or fingerprint(str(state["store"]))
            if found == self.store:
                self.id, self.batches = str(state["run"]), list(state["batches"])
                self._save()
                self.client.update_run(self.id, status="RUNNING")
                return
        self.id = str(self.client.create_run(self.experiment, run_name=run.name).info.run_id)
        self._save()
        from mlflow.entities import Param

        parameters = [
            Param(key, (value if isinstance(value, str) else json.dumps(value))[:LONGEST_VALUE])
            for key, value in run.settings.items()
        ]
        self.client.log_batch(self.id, params=parameters)

    def log(self, points: Sequence[Point], batch: int) -> None:
        """Add the points, unless the batch is there already."""
        from mlflow.entities import Metric

        if batch in self.batches:
            return
        now = int(time.time() * 1000)
        metrics = [Metric(point.name, point.value, now, point.step) for point in points]
        for start in range(0, len(metrics), MOST_IN_A_CALL):
            self.client.log_batch(self.id, metrics=metrics[start : start + MOST_IN_A_CALL])
        self.batches.append(batch)
        self._save()

    def close(self, finished: bool) -> None:
        """Set the status of the run there."""
        self.client.set_terminated(self.id, status="FINISHED" if finished else "KILLED")

    def _save(self) -> None:
        state = {"store_sha256": self.store, "run": self.id, "batches": self.batches}
        self.folder.write_json(STATE, state)


class Mlflow:
    """The logger `mlflow`."""

    variables: tuple[str, ...] = (URI, NAME)

    def check(self, experiment: LoggedConfig) -> None:
        """Reach the store, and create it: trials that start together find it there."""
        connect(experiment)

    def destination(self, experiment: LoggedConfig) -> str:
        """The store, by its hash if it is not the local file, and the experiment."""
        where = fingerprint(store(experiment))[:12] if os.environ.get(URI) else DATABASE
        return f"store {where}, experiment {_experiment_name()}"

    def open(self, run: LoggedRun) -> MlflowLog:
        """The MLflow run of this run."""
        return MlflowLog(run)


def store(experiment: LoggedConfig) -> str:
    """The URI of the store. Raises ConfigError where there can be no local file."""
    uri = os.environ.get(URI)
    if uri:
        return uri
    if "://" in experiment.storage_path:
        raise ConfigError(
            f"loggers=[mlflow] cannot keep its database in storage_path={experiment.storage_path}; "
            f"set {URI}"
        )
    return f"sqlite:///{experiment.storage_path}/{DATABASE}"


def fingerprint(uri: str) -> str:
    """Identity of a store: SHA-256 of its URI without the user."""
    return hashlib.sha256(without_credentials(uri).encode()).hexdigest()


def connect(experiment: LoggedConfig) -> "tuple[MlflowClient, str]":
    """A client and the id of the experiment, which is made if it is not there."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise ConfigError(
            "loggers=[mlflow] needs MLflow: pip install 'promptide[mlflow]'"
        ) from error
    uri = store(experiment)
    if uri.startswith("sqlite:///"):
        os.makedirs(os.path.dirname(uri.removeprefix("sqlite:///")) or ".", exist_ok=True)
    name = _experiment_name()
    try:
        client: Any = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(name)
        return client, str(found.experiment_id if found else client.create_experiment(name))
    except (MlflowException, OSError, ImportError) as error:
        first = str(error).splitlines()[0]
        message = f"MLflow's store {uri} cannot be used ({first}); check {URI}"
        # Not from the error: tracebacks of trials are kept, and its message has the URI too.
        raise ConfigError(without_credentials(message)) from None


def _experiment_name() -> str:
    return os.environ.get(NAME) or EXPERIMENT


LOGGER = Mlflow()
