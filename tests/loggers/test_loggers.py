"""Loggers get each curve once, however often a run starts, and never end it."""

import sys
from pathlib import Path
from typing import Any

import pytest

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.loggers.logger import LOGGERS
from system.loggers.points import Point, StreamCurves, task_points
from system.loggers.run_loggers import RunLoggers, check_loggers
from system.loggers.tensorboard import TensorBoardLog
from tests.loggers.event_files import scalars

TASKS = 2
EPOCHS = 2
CURVES = StreamCurves(EPOCHS)
FIGURES = {"t2i_r1": 20.0, "i2t_r1": None}


def payload(index: int) -> dict[str, Any]:
    """What the stream commits for a task, with other values for each."""
    log = [
        {
            "task_index": index,
            "task": f"t{index}",
            "epoch": epoch,
            "step": 7 * (epoch + 1),
            "loss": 10.0 * index + epoch,
            "images_per_second": 100.0,
            "loss_contrastive": 0.5,
        }
        for epoch in range(EPOCHS)
    ]
    rows = [row(index, task, 10.0 * (task + 1)) for task in range(TASKS)]
    if index == 0:
        rows += [row(-1, task, 4.0 * task) for task in range(TASKS)]
    return {"log": log, "rows": rows}


def row(trained: int, evaluated: int, value: float | None) -> dict[str, Any]:
    return {
        "trained_index": trained,
        "evaluated_index": evaluated,
        "metric": "t2i_r1",
        "value": value,
        "reason": None if value is not None else "no query",
    }


METRICS = {
    "tasks": ["t0", "t1"],
    "average": FIGURES,
    "forgetting": {"t2i_r1": 1.0},
    "forward_transfer": {"t2i_r1": None},
    "zero_shot": {"average": {"t2i_r1": 2.0}, "per_task": {}},
    "oracle": {"average": {"t2i_r1": 22.0}, "per_task": {}},
    "trainable_parameters": 1076,
    "replayed_rows": 0,
    "wall_seconds": {"start": 1.0, "stream": 2.5},
}
CURVE = [  # of the loss, by epoch
    ("train/loss", 1, 0.0),
    ("train/loss", 2, 1.0),
    ("train/loss", 3, 10.0),
    ("train/loss", 4, 11.0),
]
RECALL = [("eval/t2i_r1", 0, 2.0), ("eval/t2i_r1", 1, 10.0), ("eval/t2i_r1", 2, 15.0)]


def experiment(root: Path, *loggers: str) -> ExperimentConfig:
    more = [f"stage.epochs={EPOCHS}", f"loggers=[{','.join(loggers)}]"]
    return compose([f"storage_path={root}", "run_name=logged", *more])


def logged(of: ExperimentConfig) -> None:
    """A run that is interrupted after its first task and goes on."""
    committed = [payload(index) for index in range(TASKS)]
    with RunLoggers(of, CURVES) as loggers:
        loggers.learned(committed[:1])
        loggers.learned(committed[:1])  # looked at again
    with RunLoggers(of, CURVES) as loggers:
        loggers.learned(committed)
        loggers.final(METRICS)


def test_curves_by_epoch_and_means_over_the_tasks_so_far() -> None:
    first = list(task_points(payload(0), 0, EPOCHS))
    assert Point("train/loss_contrastive", 0.5, 2) in first
    assert Point("train/images_per_second", 100.0, 1) in first
    assert Point("eval/t2i_r1", 2.0, 0) in first  # zero-shot: both tasks
    assert Point("eval/t2i_r1", 10.0, 1) in first  # the learned task alone
    assert Point("eval/t2i_r1", 15.0, 2) in list(task_points(payload(1), 1, EPOCHS))


def test_an_undefined_figure_has_no_point() -> None:
    """A mean over what is left would look better than it is."""
    rows = [row(1, 0, 5.0), row(1, 1, None)]
    assert list(task_points({"log": [], "rows": rows}, 1, EPOCHS)) == []


def test_tensorboard_is_always_there_and_holds_no_point_twice(tmp_path: Path) -> None:
    logged(experiment(tmp_path))
    found = scalars(tmp_path / "logged" / "tensorboard")
    assert [point for point in found if point[0] == "train/loss"] == CURVE
    assert [point for point in found if point[0] == "eval/t2i_r1"] == RECALL
    final = {name: value for name, _, value in found if name.startswith("final/")}
    assert final["final/average_t2i_r1"] == 20.0
    assert final["final/oracle_t2i_r1"] == 22.0
    assert final["final/seconds"] == 3.5
    assert "final/average_i2t_r1" not in final


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


def test_wandb_is_offline_without_a_key(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs promptide[wandb]")
    logged(experiment(tmp_path, "wandb"))
    files = sorted((tmp_path / "logged" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # of the two starts, with one id: `wandb sync` joins them
    assert len({file.name for file in files}) == 1
    first, second = (file.read_bytes() for file in files)
    assert b"train/loss_contrastive" in first
    assert b"eval/t2i_r1" in second
    assert b"final/average_t2i_r1" in second


def test_offline_files_are_not_left_where_they_get_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's working directory goes with it; only a log on the server needs no files."""
    pytest.importorskip("wandb", reason="needs promptide[wandb]")
    storage = f"file://{tmp_path}/runs"
    of = compose([f"storage_path={storage}", "run_name=logged", "loggers=[wandb]"])
    with pytest.raises(ConfigError, match=f"storage_path={storage}.*WANDB_DIR"):
        check_loggers(of)
    with pytest.raises(ConfigError, match="WANDB_DIR"), RunLoggers(of, CURVES):
        pass  # a worker of a sweep that has other variables than what checked it
    monkeypatch.setenv("WANDB_MODE", "online")
    check_loggers(of)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    check_loggers(of)
    with RunLoggers(of, CURVES):
        pass
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


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
