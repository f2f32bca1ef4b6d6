"""A real run with all loggers on: what they hold is what the run directory holds."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from tests.integration.small_stream import small_experiment
from tests.loggers.event_files import scalars

pytestmark = pytest.mark.ray


def test_curves_and_figures_are_those_of_the_run_directory(
    small_stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    pytest.importorskip("wandb", reason="needs promptide[wandb]")
    from mlflow.tracking import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    of = small_experiment(
        small_stream, "logged", "cluster.workers=0", "stage.epochs=2", "loggers=[mlflow,wandb]"
    )
    carry_out(of, Console(quiet=True))
    folder = small_stream / "runs" / "logged"
    log = pq.read_table(folder / "training_log.parquet").to_pylist()
    average = json.loads((folder / "metrics.json").read_text())["average"]

    events = scalars(folder / "tensorboard")
    losses = [value for name, _, value in events if name == "train/loss"]
    assert losses == pytest.approx([row["loss"] for row in log])  # event files hold 32 bits
    last = {name: value for name, _, value in events}
    assert last["final/average_t2i_r1"] == pytest.approx(average["t2i_r1"])
    assert last["eval/t2i_r1"] == pytest.approx(average["t2i_r1"])

    client = MlflowClient(tracking_uri=f"sqlite:///{small_stream}/runs/mlflow.db")
    place = client.get_experiment_by_name("promptide")
    assert place is not None
    (run,) = client.search_runs([place.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == [row["loss"] for row in log]
    assert run.data.metrics["final/average_t2i_r1"] == average["t2i_r1"]
    (offline,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert b"final/average_t2i_r1" in offline.read_bytes()
