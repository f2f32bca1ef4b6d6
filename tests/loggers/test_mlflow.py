"""MLflow: a local database, runs that were interrupted, and stores with passwords."""

import json
import traceback
from pathlib import Path

import pytest

from system.errors import ConfigError
from system.loggers.points import StreamCurves
from system.loggers.run_loggers import RunLoggers, check_loggers
from tests.loggers.logged_stream import CURVE, CURVES, experiment, logged


def test_mlflow_keeps_a_run_in_a_local_database(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    from mlflow.tracking import MlflowClient

    logged(experiment(tmp_path, "mlflow"))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    place = client.get_experiment_by_name("promptide")
    assert place is not None
    (run,) = client.search_runs([place.experiment_id])
    assert run.info.run_name == "logged"
    assert run.info.status == "FINISHED"
    assert run.data.params["stage.optimiser.name"]
    assert run.data.params["method.name"] == "lpi"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((m.key, m.step, m.value) for m in history) == CURVE
    assert run.data.metrics["final/average_t2i_r1"] == 20.0


def test_mlflow_says_of_an_interrupted_run_that_it_is_one(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    from mlflow.tracking import MlflowClient

    with RunLoggers(experiment(tmp_path, "mlflow"), CURVES):
        pass
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    place = client.get_experiment_by_name("promptide")
    assert place is not None
    (run,) = client.search_runs([place.experiment_id])
    assert run.info.status == "KILLED"


SECRET = "pa55"


def test_a_store_that_is_out_of_reach_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"http://\.\.\.@127\.0\.0\.1:9") as raised:
        check_loggers(experiment(tmp_path, "mlflow"))
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_the_run_directory_does_not_hold_the_stores_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run directories are shared; an earlier file with the URI is gone on with and mended."""
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    uri = f"sqlite:///{tmp_path}/{SECRET}.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    of = experiment(tmp_path, "mlflow")
    with RunLoggers(of, StreamCurves(1)):
        pass
    file = tmp_path / "logged" / "mlflow.json"
    assert SECRET not in file.read_text()
    state = json.loads(file.read_text())
    earlier = {"store": uri, "run": state["run"], "batches": [0]}
    file.write_text(json.dumps(earlier))
    with RunLoggers(of, StreamCurves(1)):
        pass
    found = json.loads(file.read_text())
    assert found == {**state, "batches": [0], "seal": found["seal"]}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    file.write_text(json.dumps(earlier))
    with RunLoggers(of, StreamCurves(1)):
        pass
    other = json.loads(file.read_text())
    assert other["run"] != state["run"]
    assert SECRET not in file.read_text()
