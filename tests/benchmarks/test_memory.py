"""What a stream keeps as its tasks grow: 12, 100, 1,000 of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from actors.state.task_stream_state import TaskStream
from system.methods.base import RetrievalSetting
from system.methods.sharing import build_method
from system.results.accuracy_matrix import MatrixRow
from system.results.recall import METRICS
from system.storage.adapters import AdapterFolder, AdapterHeader, prefixed
from system.storage.files import Folder
from tests.actors.streams import make_manifest
from tests.benchmarks.conftest import Performance
from tuning.report.parameters import published_clip

COUNTS = (12, 100, 1000)
COMMITTED = 12  # tasks whose commits are made for real; the others are as large
TESTS, CAPTIONS, WIDTH = 100, 5, 512  # images of a task's test split, texts of an image
CENTRES = 5


def payload(task: str, index: int, tasks: int) -> dict[str, object]:
    """What a worker commits: a matrix row of each task and metric, the similarities, the log."""
    metrics = (*METRICS, "route_image", "route_text")
    rows = [
        asdict(MatrixRow(index, evaluated, metric, 12.345678901234567, TESTS))
        for evaluated in range(tasks)
        for metric in metrics
    ]
    return {
        "task": task,
        "adapter": f"task-{index:03d}.safetensors",
        "rows": rows,
        "log": [{"epoch": epoch, "loss": 1.2345678901234567} for epoch in range(10)],
        "similarity": [0.12345678901234567] * (index + 1),
        "seconds": {"train": 1.5},
    }


def folder_bytes(root: Path) -> int:
    """Of all files below a directory."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def journal_bytes(root: Path, tasks: int, committed: int = COMMITTED) -> float:
    """Of the journal of a stream of so many tasks, of which the first ones are committed."""
    names = tuple(f"task-{number:04d}" for number in range(tasks))
    stream = TaskStream(str(root / "journal"), make_manifest(root, names))
    generation = stream.register("run")
    before = folder_bytes(root / "journal")
    done = min(committed, tasks)
    for index in range(done):
        lease = stream.lease("run", generation)
        assert lease is not None
        stream.commit("run", generation, lease.task, payload(lease.task, index, tasks))
    return before + (folder_bytes(root / "journal") - before) / done * tasks


def adapter_bytes(root: Path, method: str) -> tuple[float, float]:
    """Of the adapters' folder: its header, and what a further task adds to it."""
    clip = published_clip("cpu")
    section = {"name": method}
    made = build_method(section, RetrievalSetting(clip.shape, 0))
    folder = AdapterFolder(Folder.of(root / method))
    folder.save_header(
        AdapterHeader(clip.name, "f" * 64, section, "b", "f" * 64, "corrected", 0, ())
    )
    sizes = [folder_bytes(root / method)]
    centres = {f"router.{m}": torch.zeros(CENTRES, WIDTH) for m in ("vision", "text")}
    for task in range(2):
        made.begin_task(task, clip)
        state = prefixed("method", made.task_state(task)) | {"task_text": torch.zeros(WIDTH)}
        folder.save_task(task, state | centres)
        sizes.append(folder_bytes(root / method))
    return sizes[0], sizes[2] - sizes[1]


def evaluation_bytes(tasks: int) -> int:
    """Of a worker's test features: unprompted and prompted ones, and where each was routed to."""
    samples = tasks * TESTS * (1 + CAPTIONS)
    return samples * (2 * WIDTH * 4 + 8)


def compare(
    root: Path,
    performance: Performance,
    counts: tuple[int, ...] = COUNTS,
    committed: int = COMMITTED,
) -> None:
    """One row a number of tasks."""
    header, each = adapter_bytes(root, "lpi")
    rows = []
    for tasks in counts:
        place = root / str(tasks)
        place.mkdir()
        journal = journal_bytes(place, tasks, committed)
        parameters = header + each * tasks
        rows.append(
            [
                f"{tasks:,}",
                *(f"{bytes_:,.0f}" for bytes_ in (journal, parameters, evaluation_bytes(tasks))),
            ]
        )
    performance.table(
        "Memory against tasks",
        ["tasks", "journal, bytes", "adapters, bytes", "test features, bytes"],
        rows,
        f"LPI at ViT-B/16's sizes, {TESTS} test images of {CAPTIONS} captions a task. The journal "
        f"is the stream's state on disk, of {committed} commits made, the others as large: each "
        "holds a matrix row of every task, so that it grows with the square. Adapters, two of them "
        "written, grow with the tasks, and so do a worker's test features, which are counted.",
    )


@pytest.mark.benchmark
def test_memory_against_tasks(tmp_path: Path, performance: Performance) -> None:
    compare(tmp_path, performance)
