"""A model's training is logged epoch by epoch, each epoch once, however often a run starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from system.engine.model_stage import ModelExperiment, model_experiment
from system.loggers.points import ModelCurves, Point, epoch_points, metric_points
from system.loggers.run_loggers import RunLoggers
from tests.loggers.event_files import scalars

LOG = [{"epoch": e, "steps": 9, "loss": 4.0 - e, "kl": 0.5} for e in range(3)]
METRICS: dict[str, Any] = {
    "held_out_iou": 0.75,
    "iou": {"sampled": 0.25, "undefined": None, "per_task": {"disk": 0.5}},
    "seed": 3,
    "training_log": LOG,
}
FIGURES = ("held_out_iou", "iou")
CURVE = [("train/loss", 1, 4.0), ("train/loss", 2, 3.0), ("train/loss", 3, 2.0)]


def experiment(root: Path, *loggers: str) -> ModelExperiment:
    return model_experiment(
        {
            "run_name": "model",
            "storage_path": str(root),
            "data_path": str(root),
            "seed": 0,
            "benchmark": {"name": "shapes", "dataset": "coco", "options": {}},
            "stage": {"name": "mask_vae"},
            "cluster": {
                "address": None,
                "workers": 0,
                "cpus_per_worker": 1,
                "gpu": False,
                "max_failures": 0,
            },
            "loggers": list(loggers),
        }
    )


def logged(of: ModelExperiment) -> None:
    """A training that is interrupted after its first epoch and goes on."""
    with RunLoggers(of, ModelCurves(FIGURES)) as loggers:
        loggers.learned([])
        loggers.learned(LOG[:1])
        loggers.learned(LOG[:1])  # looked at again
    with RunLoggers(of, ModelCurves(FIGURES)) as loggers:
        loggers.learned(LOG[:2])
        loggers.final(METRICS)


def test_a_row_of_the_log_is_one_step_of_each_of_its_curves() -> None:
    assert list(epoch_points(LOG[1])) == [
        Point("train/loss", 3.0, 2),
        Point("train/kl", 0.5, 2),
    ]


def test_only_figures_that_are_numbers_have_a_point() -> None:
    """A null one has none, and what stands deeper in a section is no figure of it."""
    assert list(metric_points(METRICS, FIGURES)) == [
        Point("final/held_out_iou", 0.75, 1),
        Point("final/iou_sampled", 0.25, 1),
    ]


def test_no_epoch_is_there_twice(tmp_path: Path) -> None:
    logged(experiment(tmp_path))
    found = scalars(tmp_path / "model" / "tensorboard")
    assert [point for point in found if point[0] == "train/loss"] == CURVE
    assert [point for point in found if point[0] == "final/held_out_iou"] == [
        ("final/held_out_iou", 1, 0.75)
    ]


def test_mlflow_has_no_epoch_twice_either(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs promptide[mlflow]")
    from mlflow.tracking import MlflowClient

    logged(experiment(tmp_path, "mlflow"))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    place = client.get_experiment_by_name("promptide")
    assert place is not None
    (run,) = client.search_runs([place.experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((m.key, m.step, m.value) for m in history) == CURVE
    assert run.data.metrics["final/iou_sampled"] == 0.25
