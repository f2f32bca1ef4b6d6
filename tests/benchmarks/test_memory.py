"""What a stream keeps as its tasks grow: 12, 100, 1,000 of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from system.methods.base import RetrievalSetting
from system.methods.sharing import build_method
from system.storage.adapters import AdapterFolder, AdapterHeader, prefixed
from system.storage.files import Folder
from tests.benchmarks.conftest import Performance
from tuning.report.parameters import published_clip

COUNTS = (12, 100, 1000)
TESTS, CAPTIONS, WIDTH = 100, 5, 512  # images of a task's test split, texts of an image
CENTRES = 5


def folder_bytes(root: Path) -> int:
    """Of all files below a directory."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


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


@pytest.mark.benchmark
def test_memory_against_tasks(tmp_path: Path, performance: Performance) -> None:
    header, each = adapter_bytes(tmp_path, "lpi")
    rows = [
        [f"{tasks:,}", f"{header + each * tasks:,.0f}", f"{evaluation_bytes(tasks):,}"]
        for tasks in COUNTS
    ]
    performance.table(
        "Memory against tasks",
        ["tasks", "adapters, bytes", "test features, bytes"],
        rows,
        f"LPI at ViT-B/16's sizes, {TESTS} test images of {CAPTIONS} captions a task. Adapters, "
        "two of them written, grow with the tasks, and so do a worker's test features, which are "
        "counted.",
    )
