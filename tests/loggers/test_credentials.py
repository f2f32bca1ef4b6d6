"""Passwords of a tracker's URI stay out of run directories and messages."""

import json
import traceback
from pathlib import Path

import pytest

from system.errors import ConfigError
from system.loggers.logger import without_credentials
from system.loggers.points import StreamCurves
from system.loggers.run_loggers import RunLoggers, check_loggers, destinations
from tests.loggers.test_loggers import experiment, logged

SECRET = "pa55"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@host:5000/x", "https://...@host:5000/x"),
        ("(https://pa55@host) is gone", "(https://...@host) is gone"),
        ("mysql+pymysql://me:pa55/pa55@host/db", "mysql+pymysql://...@host/db"),
        ("http://me:pa55@pa55@host", "http://...@host"),
        ("a https://me:pa55@h b http://i:pa55@k", "a https://...@h b http://...@k"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("https://host/models/x@champion", "https://host/models/x@champion"),
        ("https://host:5000/x", "https://host:5000/x"),
    ],
)
def test_only_who_opens_a_uri_is_left_out(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_a_store_that_is_out_of_reach_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"http://\.\.\.@127\.0\.0\.1:9") as raised:
        check_loggers(experiment(tmp_path, "mlflow"))
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_a_tracker_that_fails_later_does_not_tell_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log of a job is there for all who see the cluster."""
    from system.loggers.tensorboard import TensorBoardLog

    def gone(*_: object) -> None:
        raise ConnectionError(f"https://me:{SECRET}@host is gone")

    monkeypatch.setattr(TensorBoardLog, "log", gone)
    logged(experiment(tmp_path))
    assert "https://...@host is gone" in caplog.text
    assert SECRET not in caplog.text
    monkeypatch.setattr(TensorBoardLog, "__init__", gone)
    with pytest.raises(ConfigError, match=r"https://\.\.\.@host is gone") as raised:
        logged(experiment(tmp_path))
    assert SECRET not in "".join(traceback.format_exception_only(raised.value))
    assert raised.value.__suppress_context__, "Ray keeps the traceback of a trial"


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
    assert json.loads(file.read_text()) == {**state, "batches": [0]}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    file.write_text(json.dumps(earlier))
    with RunLoggers(of, StreamCurves(1)):
        pass
    other = json.loads(file.read_text())
    assert other["run"] != state["run"]
    assert SECRET not in file.read_text()


@pytest.mark.parametrize(
    ("logger", "variables", "same"),
    [
        ("mlflow", {"MLFLOW_TRACKING_URI": f"https://me:{SECRET}@host"}, False),
        ("mlflow", {"MLFLOW_EXPERIMENT_NAME": "other"}, False),
        ("wandb", {"WANDB_API_KEY": SECRET}, False),
        ("wandb", {"WANDB_API_KEY": SECRET, "WANDB_MODE": "offline"}, True),
        ("wandb", {"WANDB_PROJECT": "other"}, False),
        ("wandb", {"WANDB_BASE_URL": f"https://me:{SECRET}@host"}, False),
    ],
)
def test_a_destination_tells_places_apart_and_no_secret(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logger: str,
    variables: dict[str, str],
    same: bool,
) -> None:
    """Ray Tune writes it into its logs."""
    of = experiment(tmp_path, logger)
    before = destinations(of)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (destinations(of) == before) is same
    assert SECRET not in str(destinations(of))
