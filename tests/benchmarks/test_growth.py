"""What a task costs among many: time, and bytes in the journal and in the accuracy matrix."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from actors.state.task_stream_state import TaskStream
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow
from system.results.committed_rows import CommittedRows, packed_numbers, unpacked
from system.results.stream_metrics import STREAM_METRICS
from system.storage.files import Folder
from system.storage.run_directory import (
    ACCURACY_MATRIX,
    MATRIX_SCHEMA,
    MatrixFile,
    matrix_tables,
)
from tests.actors.streams import make_manifest
from tests.benchmarks.conftest import Performance

METRICS = tuple(f"{way}_r{k}" for way in ("t2i", "i2t") for k in (1, 5, 10))
ROUTED_ELSEWHERE = 5  # tasks whose values a new task changes


@pytest.mark.benchmark
@pytest.mark.parametrize("tasks", [100, 1000])
def test_a_stream_of_tiny_tasks(tmp_path: Path, performance: Performance, tasks: int) -> None:
    """Without training: what the stream, its journal and the results add to each task."""
    names = tuple(f"task-{number:04d}" for number in range(tasks))
    step = tasks // 4
    stream = TaskStream(str(tmp_path / "journal"), make_manifest(tmp_path, names))
    rng, packer = np.random.default_rng(0), CommittedRows()
    values = {metric: rng.integers(0, 20, tasks) * 5.0 for metric in METRICS}
    generation = stream.register("run")
    rows: list[list[str]] = []
    started, written = time.perf_counter(), 0
    while (lease := stream.lease("run", generation)) is not None:
        stream.open_split("run", generation, 0, lease.task, "train")
        for metric in METRICS:
            changed = rng.integers(0, tasks, ROUTED_ELSEWHERE)
            values[metric][changed] = rng.integers(0, 20, ROUTED_ELSEWHERE) * 5.0
        found = [
            MatrixRow(lease.index, j, metric, value, 4)
            for metric in METRICS
            for j, value in enumerate(values[metric].tolist())
        ]
        similarity = packed_numbers(rng.random(lease.index + 1, np.float32))
        payload = {"task": lease.task, "rows": packer.pack(found), "similarity": similarity}
        written += len(json.dumps(payload))
        stream.commit("run", generation, lease.task, payload)
        if (lease.index + 1) % step == 0:
            journal = sum(file.stat().st_size for file in (tmp_path / "journal").iterdir())
            milliseconds = 1000 * (time.perf_counter() - started) / step
            rows.append(
                [
                    f"{lease.index + 1}",
                    f"{milliseconds:.1f}",
                    f"{written / step / 1000:.2f}",
                    f"{journal / 1000:.0f}",
                ]
            )
            started, written = time.perf_counter(), 0
    performance.table(
        f"A stream of {tasks:,} tasks",
        ("tasks", "ms per task", "KB per commit", "journal, KB"),
        rows,
        "Bookkeeping of six metrics on all tasks after each task, by quarters.",
    )
    started = time.perf_counter()
    matrix = AccuracyMatrix(
        names, blocks=unpacked(payload["rows"] for payload in stream.committed("run"))
    )
    folder = Folder.of(str(tmp_path / "run"))
    folder.write_tables(ACCURACY_MATRIX, MATRIX_SCHEMA, matrix_tables(matrix.columns()))
    written_in = time.perf_counter() - started
    started = time.perf_counter()
    again = AccuracyMatrix.from_columns(MatrixFile.of(folder))
    read_in = time.perf_counter() - started
    assert again.trained == matrix.trained
    started = time.perf_counter()
    for summary in STREAM_METRICS:
        for metric in METRICS:
            summary.of(again, metric)
    seconds = time.perf_counter() - started
    size = (tmp_path / "run" / ACCURACY_MATRIX).stat().st_size
    performance.table(
        f"The accuracy matrix of {tasks:,} tasks",
        ("entries", "s to unpack and write", "s to read", "s to sum up", "KB"),
        [
            [
                f"{len(METRICS) * tasks**2:,}",
                *(f"{part:.2f}" for part in (written_in, read_in, seconds)),
                f"{size / 1000:.0f}",
            ]
        ],
    )
