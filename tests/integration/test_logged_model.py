"""A model's training that is interrupted has the curves of one that was not, in every logger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from system.cli.run import run as promptide_run
from system.engine.epochs import EpochLoop
from tests.diff_prompt.mask_files import SIDE, prepare_shapes
from tests.loggers.event_files import scalars

pytestmark = pytest.mark.ray


def overrides(root: Path) -> list[str]:
    return [
        "experiment=mask_vae",
        "benchmark.name=shapes",
        f"storage_path={root / 'runs'}",
        f"data_path={root}",
        "run_name=logged",
        "cluster.workers=0",
        f"stage.vae.image_size={SIDE}",
        "stage.vae.channels=[8,16]",
        "stage.epochs=3",
        "stage.batch_size=8",
        "loggers=[mlflow]",
    ]


def test_an_interrupted_training_is_logged_once(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    from mlflow.tracking import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    prepare_shapes(tmp_path)
    train = EpochLoop.epoch

    def broken(loop: EpochLoop) -> dict[str, Any]:
        if loop.position.epoch == 2:
            raise MemoryError("no room")
        return train(loop)

    monkeypatch.setattr(EpochLoop, "epoch", broken)
    with pytest.raises(MemoryError):
        promptide_run(overrides(tmp_path), None, Console(quiet=True))
    folder = tmp_path / "runs" / "logged"
    before = [point for point in scalars(folder / "tensorboard") if point[0] == "train/loss"]
    assert len(before) == 2, "an interrupted run shows its epochs only once it goes on"

    monkeypatch.setattr(EpochLoop, "epoch", train)
    promptide_run(overrides(tmp_path), None, Console(quiet=True))
    metrics = json.loads((folder / "metrics.json").read_text())
    losses = [row["loss"] for row in metrics["training_log"]]
    events = scalars(folder / "tensorboard")
    curve = [(step, value) for name, step, value in events if name == "train/loss"]
    assert [step for step, _ in curve] == [1, 2, 3]
    assert [value for _, value in curve] == pytest.approx(losses)  # event files hold 32 bits
    last = {name: value for name, _, value in events}
    assert last["final/held_out_iou"] == pytest.approx(metrics["held_out_iou"])

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs/mlflow.db")
    place = client.get_experiment_by_name("promptide")
    assert place is not None
    (run,) = client.search_runs([place.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == losses
    assert run.data.params["stage.name"] == "mask_vae"
