"""A stream of two tasks as loggers get it: interrupted after the first task, then resumed."""

from pathlib import Path
from typing import Any

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.loggers.points import StreamCurves
from system.loggers.run_loggers import RunLoggers

TASKS = 2

EPOCHS = 2

CURVES = StreamCurves(EPOCHS)

VALUES = {"t2i_r1": 20.0, "i2t_r1": None}


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
        "queries": 10,
        "reason": None if value is not None else "no query",
    }


METRICS = {
    "tasks": ["t0", "t1"],
    "average": VALUES,
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
