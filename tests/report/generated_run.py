"""Writes run directories with generated values: every file of a finished run, from a seed."""

import io
import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw

TASKS = (
    "appliance", "sports", "outdoor", "electronic", "accessory", "indoor",
    "kitchen", "furniture", "vehicle", "food", "animal", "person",
)  # fmt: skip
#: What the page calls some of the recalls.
LABELS = {"t2i_r1": "Text → image R@1", "i2t_r1": "Image → text R@1", "t2i_r5": "Text → image R@5"}
RECALLS = ("t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10")
ROUTES = ("route_image", "route_text")
START = datetime(2025, 3, 1, 9, 30, tzinfo=timezone.utc)
Matrix = NDArray[np.float64]  # (K + 1, K): row 0 zero-shot, row i + 1 after task i

MATRIX_SCHEMA = pa.schema(
    [
        ("trained_index", pa.int32()),
        ("trained_task", pa.string()),
        ("evaluated_index", pa.int32()),
        ("evaluated_task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("reason", pa.string()),
        ("queries", pa.int32()),
    ]
)


def write_run(directory: Path, tasks: Sequence[str] = TASKS, seed: int = 0) -> Path:
    """Write a finished run; the values of metrics.json follow from the matrix by definition."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 7])
    matrices = make_matrices(rng, len(tasks))
    write_matrix(directory, matrices, tasks)
    write_access_log(directory, tasks)
    write_training_log(directory, tasks, rng)
    write_examples(directory, tasks, rng)
    write_metrics(directory, matrices, tasks, rng)
    (directory / "config.yaml").write_text(
        "run: demo\nseed: 0\nmethod:\n  name: lpi\n  rank: 4\n  depth: 9\n"
    )
    return directory


def make_matrices(rng: np.random.Generator, count: int) -> dict[str, Matrix]:
    """Percentages by metric: a task gains when learned, then loses a little."""
    matrices = {}
    base = rng.uniform(25, 50, count)
    for metric in RECALLS:
        lift = {"r1": 0.0, "r5": 28.0, "r10": 38.0}[metric.split("_")[1]]
        start = base + lift + rng.normal(4 if metric.startswith("i2t") else 0, 2, count)
        rows = [start]
        for task in range(count):
            row = rows[-1] + rng.normal(0, 0.4, count)
            row[task] += rng.uniform(4, 11)
            row[:task] -= rng.uniform(0, 0.6, task)
            rows.append(row)
        matrices[metric] = np.clip(np.array(rows), 0, 100).round(2)
    for metric, accuracy in zip(ROUTES, (88.0, 94.0), strict=True):
        fixed = np.clip(rng.normal(accuracy, 5, count), 0, 100)
        matrices[metric] = np.tile(fixed, (count + 1, 1)).round(2)
    return matrices


def write_matrix(directory: Path, matrices: dict[str, Matrix], tasks: Sequence[str]) -> None:
    """accuracy_matrix.parquet; NaN gets a reason."""
    rows = [
        {
            "trained_index": trained - 1,
            "trained_task": tasks[trained - 1] if trained else None,
            "evaluated_index": evaluated,
            "evaluated_task": tasks[evaluated],
            "metric": metric,
            "value": float(value),
            "reason": "no test image has a caption" if np.isnan(value) else None,
            "queries": 200,
        }
        for metric, matrix in matrices.items()
        for (trained, evaluated), value in np.ndenumerate(matrix)
    ]
    table = pa.Table.from_pylist(rows, MATRIX_SCHEMA)
    pq.write_table(table, directory / "accuracy_matrix.parquet")


def write_metrics(
    directory: Path, matrices: dict[str, Matrix], tasks: Sequence[str], rng: np.random.Generator
) -> None:
    """metrics.json with the definitions of the design computed from the matrices."""
    count = len(tasks)
    last = {metric: matrices[metric][-1] for metric in RECALLS}
    oracle = {metric: row + rng.uniform(0.2, 2.5, count) for metric, row in last.items()}
    similarity = rng.uniform(0.2, 0.8, (count, count)).round(3)
    similarity = np.tril(similarity, -1) + np.tril(similarity, -1).T + np.eye(count)

    def forward_transfer(matrix: Matrix) -> float:
        return float(np.mean([matrix[j, j] - matrix[0, j] for j in range(1, count)]))

    def best_minus_last(matrix: Matrix) -> float:
        return float(np.mean(matrix[1:-1, :-1].max(0) - matrix[-1, :-1]))

    def published_forgetting(matrix: Matrix) -> float:
        drops = [matrix[-1, j] - matrix[j + 1 : -1, j].max() for j in range(count - 1)]
        return float(np.mean(drops))

    def published_average(matrix: Matrix) -> float:
        return float(np.mean([matrix[j + 1 :, j].mean() for j in range(count)]))

    def stream_average(matrix: Matrix) -> float:
        return float(matrix[1:].mean())

    def transfer(matrix: Matrix) -> float:
        return float(np.mean([matrix[1 : j + 1, j].mean() for j in range(1, count)]))

    def backward_transfer(matrix: Matrix) -> float:
        return float(np.mean([matrix[-1, j] - matrix[j + 1, j] for j in range(count - 1)]))

    def around(values: dict[str, float], half: float) -> dict[str, list[float]]:
        return {metric: [value - half, value + half] for metric, value in values.items()}

    average = {metric: float(row.mean()) for metric, row in last.items()}
    zero_shot = {metric: float(matrices[metric][0].mean()) for metric in RECALLS}
    gain = {metric: average[metric] - zero_shot[metric] for metric in RECALLS}
    sums = {"average": sum(average.values()), "zero_shot": sum(zero_shot.values())}

    metrics = {
        "run": "demo",
        "method": "lpi",
        "backbone": {"name": "tiny_clip", "fingerprint": "3f9a1c77e0b2"},
        "benchmark": {"name": "openmoji", "fingerprint": "b771d2054cd1"},
        "seed": 0,
        "protocol": "corrected",
        "versions": {"torch": "2.13.0", "ray": "2.60.0", "transformers": "5.24.0"},
        "evaluation": {
            "split": "test",
            "gallery": "all",
            "captions_per_image": 5,
            "transform": "resize 64, centre crop, CLIP normalisation",
            "router": "k-means, 5 centres a task and modality",
        },
        "tasks": list(tasks),
        "average": average,
        "stream_average": {m: stream_average(matrices[m]) for m in RECALLS},
        "transfer": {m: transfer(matrices[m]) for m in RECALLS},
        "backward_transfer": {m: backward_transfer(matrices[m]) for m in RECALLS},
        "rsum": sums,
        "r_mean": {of: total / 6 for of, total in sums.items()},
        "queries": {m: (5 if m.startswith("t2i") else 1) * 200 * count for m in RECALLS},
        "intervals": {
            "level": 95,
            "resamples": 2000,
            "seed": 0,
            "drawn": "images of each task, with all their queries",
            "average": around(average, 1.3) | {"rsum": [sums["average"] - 6, sums["average"] + 6]},
            "zero_shot": around(zero_shot, 1.2),
            "gain": around(gain, 0.4),
        },
        "forgetting": {metric: best_minus_last(matrices[metric]) for metric in RECALLS},
        "forward_transfer": {m: forward_transfer(matrices[m]) for m in RECALLS},
        "published_average": {m: published_average(matrices[m]) for m in RECALLS},
        "published_forgetting": {m: published_forgetting(matrices[m]) for m in RECALLS},
        "zero_shot": {
            "average": zero_shot,
            "per_task": {
                task: {metric: float(matrices[metric][0, j]) for metric in RECALLS}
                for j, task in enumerate(tasks)
            },
        },
        "oracle": {
            "average": {metric: float(row.mean()) for metric, row in oracle.items()},
            "per_task": {
                task: {metric: float(oracle[metric][j]) for metric in RECALLS}
                for j, task in enumerate(tasks)
            },
        },
        "routing": {
            modality: dict(zip(tasks, matrices[f"route_{modality}"][-1].tolist(), strict=True))
            for modality in ("image", "text")
        }
        | {
            f"{modality}_average": float(matrices[f"route_{modality}"][-1].mean())
            for modality in ("image", "text")
        },
        "task_similarity": similarity.tolist(),
        "task_similarity_source": "captions",
        "task_similarity_centred": True,
        "attracting_tasks": [[tasks[0], task] for task in tasks[1:3]],
        "trainable_parameters": 1076 * count,
        "trainable_parameters_per_task": 1076,
        "replayed_rows": 0,
        "wall_seconds": {
            "start": 8.2,
            "stream": 431.0,
            "features": 21.4,
            "train": 308.2,
            "evaluate": 96.7,
            "commit": 2.9,
        },
        "undefined": {},
    }
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=2))


def access_rows(tasks: Sequence[str]) -> list[dict[str, object]]:
    """An opening of each split a replay-free stream needs: own train, all tests each time."""
    rows: list[dict[str, object]] = []

    def opened(task: str, split: str, count: int, current: str | None) -> None:
        rows.append(
            {
                "task": task,
                "split": split,
                "rows": count,
                "opened_at": START + timedelta(seconds=4 * len(rows)),
                "generation": 0,
                "rank": 0,
                "consumer": "trainer" if split == "train" else "evaluator",
                "current_task": current,
            }
        )

    for task in tasks:
        opened(task, "test", 200, None)
    for task in tasks:
        opened(task, "train", 800, task)
        opened(task, "val", 100, task)
        for other in tasks:
            opened(other, "test", 200, task)
    return rows


def write_access_log(
    directory: Path, tasks: Sequence[str], extra: Sequence[dict[str, object]] = ()
) -> None:
    """access_log.parquet, with `extra` rows for logs that must not look clean."""
    schema = pa.schema(
        [
            ("task", pa.string()),
            ("split", pa.string()),
            ("rows", pa.int64()),
            ("opened_at", pa.timestamp("us", "UTC")),
            ("generation", pa.int32()),
            ("rank", pa.int32()),
            ("consumer", pa.string()),
            ("current_task", pa.string()),
        ]
    )
    table = pa.Table.from_pylist([*access_rows(tasks), *extra], schema)
    pq.write_table(table, directory / "access_log.parquet")


def write_training_log(directory: Path, tasks: Sequence[str], rng: np.random.Generator) -> None:
    """training_log.parquet: 10 epochs of 13 steps a task, losses that fall."""
    rows = []
    for index, task in enumerate(tasks):
        for epoch in range(10):
            retrieval = 1.6 * float(np.exp(-epoch / 5)) + float(rng.uniform(0.8, 1.0))
            alignment = 1.5 * float(np.exp(-epoch / 3)) + float(rng.uniform(0.2, 0.3))
            contrast = float(rng.uniform(0.5, 0.6)) if index else 0.0
            rows.append(
                {
                    "task_index": index,
                    "task": task,
                    "epoch": epoch,
                    "step": 13 * (epoch + 1),
                    "loss": retrieval + 0.1 * alignment + 0.1 * contrast,
                    "loss_retrieval": retrieval,
                    "loss_layer_alignment": alignment,
                    "loss_task_contrast": contrast,
                    "images_per_second": float(rng.uniform(230, 260)),
                }
            )
    table = pa.Table.from_pylist(rows)
    for column, kind in (("task_index", pa.int32()), ("epoch", pa.int32()), ("step", pa.int32())):
        position = table.column_names.index(column)
        table = table.set_column(position, column, table[column].cast(kind))
    pq.write_table(table, directory / "training_log.parquet")


def picture(rng: np.random.Generator, side: int = 64) -> bytes:
    """A PNG of a few shapes."""
    image = Image.new("RGB", (side, side), "#f4f1e8")
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y = rng.integers(0, side * 2 // 3, 2).tolist()
        box = (x, y, x + side // 3, y + side // 3)
        color = "#{:02x}{:02x}{:02x}".format(*rng.integers(40, 220, 3).tolist())
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=color)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def example_rows(tasks: Sequence[str], rng: np.random.Generator) -> list[dict[str, object]]:
    """Three queries a task, the target further up after learning than before."""
    rows: list[dict[str, object]] = []
    for index, task in enumerate(tasks):
        for query in range(3):
            before = int(rng.integers(2, 30))
            for phase, target in (("before", before), ("after", max(1, before // 4))):
                for rank in range(1, 6):
                    rows.append(
                        {
                            "evaluated_index": index,
                            "task": task,
                            "query_index": query,
                            "query": f"a red {task} beside a blue one, number {query + 1}",
                            "phase": phase,
                            "rank": rank,
                            "image_id": str(1000 * index + 10 * query + rank),
                            "score": 0.4 - 0.02 * rank,
                            "is_target": rank == target,
                            "target_rank": target,
                            "image": picture(rng),
                        }
                    )
    return rows


def write_examples(directory: Path, tasks: Sequence[str], rng: np.random.Generator) -> None:
    """examples.parquet from generated rows."""
    write_example_rows(directory, example_rows(tasks, rng))


def write_example_rows(directory: Path, rows: list[dict[str, object]]) -> None:
    """examples.parquet from given rows."""
    schema = pa.schema(
        [
            ("evaluated_index", pa.int32()),
            ("task", pa.string()),
            ("query_index", pa.int32()),
            ("query", pa.string()),
            ("phase", pa.string()),
            ("rank", pa.int32()),
            ("image_id", pa.string()),
            ("score", pa.float64()),
            ("is_target", pa.bool_()),
            ("target_rank", pa.int32()),
            ("image", pa.binary()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), directory / "examples.parquet")
