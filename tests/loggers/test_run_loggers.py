"""A logger gets each batch once, fails alone, and gives no secret away."""

import sys
import traceback
from pathlib import Path

import pytest

from system.errors import ConfigError
from system.loggers.logger import LOGGERS
from system.loggers.run_loggers import RunLoggers, check_loggers, destinations
from system.loggers.tensorboard import TensorBoardLog
from tests.loggers.event_files import scalars
from tests.loggers.logged_stream import CURVE, CURVES, experiment, logged


@pytest.mark.parametrize(("name", "module"), [("mlflow", "mlflow.tracking"), ("wandb", "wandb")])
def test_a_package_that_is_missing_is_named_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what an import of it fails with
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"promptide\[{name}\]"):
        check_loggers(experiment(tmp_path, name))


@pytest.mark.parametrize(
    ("loggers", "variables", "named"),
    [
        (["mlfow"], {}, "did you mean 'mlflow'"),
        (["wandb", "wandb"], {}, "twice"),
        (["mlflow"], {"MLFLOW_TRACKING_URI": "nowhere://x"}, "MLFLOW_TRACKING_URI"),
        (["wandb"], {"WANDB_MODE": "of-line"}, "WANDB_MODE"),
    ],
)
def test_a_wrong_setting_is_one_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loggers: list[str],
    variables: dict[str, str],
    named: str,
) -> None:
    for logger in set(loggers) & {"mlflow", "wandb"}:
        pytest.importorskip(logger, reason=f"needs promptide[{logger}]")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=named):
        check_loggers(experiment(tmp_path, *loggers))


def test_a_tracker_that_goes_away_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    from system.loggers.mlflow import MlflowLog

    def gone(*_: object) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(MlflowLog, "log", gone)
    logged(experiment(tmp_path, "mlflow"))
    assert "mlflow has failed" in caplog.text
    assert "the server is gone" in caplog.text
    found = scalars(tmp_path / "logged" / "tensorboard")
    assert [point for point in found if point[0] == "train/loss"] == CURVE


def test_a_logger_that_does_not_open_closes_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their server would show a run that goes on for ever."""
    closed: list[bool] = []
    monkeypatch.setattr(TensorBoardLog, "close", lambda _, finished: closed.append(finished))

    class Broken:
        def open(self, _: object) -> object:
            raise ConnectionError("no route")

    found = LOGGERS.get("tensorboard")
    monkeypatch.setattr(LOGGERS, "get", lambda name: found if name == "tensorboard" else Broken())
    with (
        pytest.raises(ConfigError, match="no route"),
        RunLoggers(experiment(tmp_path, "mlflow"), CURVES),
    ):
        pass
    assert closed == [False]


SECRET = "pa55"


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
