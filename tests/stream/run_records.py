"""The records of a small finished run, as the workers and the stream leave them."""

from datetime import datetime, timezone
from typing import Any

import pyarrow as pa

from system.config.schema import ExperimentConfig
from system.results.recall import METRICS as RECALLS
from system.storage.run_directory import OUTCOME, RunDirectory

TASKS = ("animal", "food", "sports")
ROUTES = ("route_image", "route_text")


def value_of(metric: str, trained: int, evaluated: int) -> float:
    """A figure that differs with the metric and both tasks."""
    offset = (*RECALLS, *ROUTES).index(metric)
    return 40.0 + offset + 7.0 * (trained == evaluated) + 3.0 * trained - 2.0 * evaluated


def row(metric: str, trained: int, evaluated: int, **changes: Any) -> dict[str, Any]:
    return {
        "trained_index": trained,
        "evaluated_index": evaluated,
        "metric": metric,
        "value": value_of(metric, trained, evaluated),
        "queries": 10,
        "reason": None,
    } | changes


def rows_after(
    trained: int, metrics: tuple[str, ...] = (*RECALLS, *ROUTES)
) -> list[dict[str, Any]]:
    return [row(metric, trained, task) for metric in metrics for task in range(len(TASKS))]


def payloads() -> list[dict[str, Any]]:
    """What each task committed: the first one holds the zero-shot row too."""
    return [
        {
            "adapter": f"task-{index:04d}.safetensors",
            "rows": (rows_after(-1, RECALLS) if index == 0 else []) + rows_after(index),
            "log": [
                {
                    "task_index": index,
                    "task": task,
                    "epoch": epoch,
                    "step": 4 * epoch + 3,
                    "loss": 2.0 - epoch,
                    "loss_contrastive": 1.5,
                    "images_per_second": 100.0,
                    **({"loss_task_contrast": 0.1} if index else {}),
                }
                for epoch in range(2)
            ],
            "similarity": [0.1 * (index + other) for other in range(index)] + [1.0],
            "seconds": {"train": 2.0, "evaluate": 1.0},
        }
        for index, task in enumerate(TASKS)
    ]


def outcome() -> dict[str, Any]:
    return {
        "backbone": "a backbone",
        "backbone_fingerprint": "f" * 64,
        "evaluated": {"gallery": "all", "captions_per_image": "2 to 3"},
        "transform": "the checkpoint's own image processor",
        "routed": ["vision", "text"],
        "oracle": rows_after(len(TASKS) - 1, RECALLS),
        "similarity_source": "captions",
        "replays": False,
        "trainable_parameters": 84 * len(TASKS),
        "trainable_parameters_per_task": 84,
        "seconds": {"evaluate": 0.5},
    }


def opened(task: str, split: str, current: str | None, rows: int = 8) -> dict[str, Any]:
    return {
        "task": task,
        "split": split,
        "rows": rows,
        "opened_at": datetime(2024, 1, 1, tzinfo=timezone.utc),
        "generation": 1,
        "rank": 0,
        "consumer": "one",
        "current_task": current,
    }


def access_log(*extra: dict[str, Any]) -> pa.Table:
    """Each task opened its own training rows while it was the current one, then `extra`."""
    schema = pa.schema(
        [
            ("task", pa.string()),
            ("split", pa.string()),
            ("rows", pa.int64()),
            ("opened_at", pa.timestamp("us", tz="UTC")),
            ("generation", pa.int32()),
            ("rank", pa.int32()),
            ("consumer", pa.string()),
            ("current_task", pa.string()),
        ]
    )
    own = [opened(task, split, task) for task in TASKS for split in ("train", "test")]
    return pa.Table.from_pylist([*own, *extra], schema=schema)


def leave_outcome(experiment: ExperimentConfig, **changes: Any) -> None:
    """Write the file that the workers write at the end."""
    RunDirectory.of(experiment).folder.write_json(OUTCOME, outcome() | changes)
