"""What a task of a real run costs among many: seconds, the actor's memory, and what is written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from actors.live import append
from system.cli.run import carry_out
from system.config.schema import ExperimentConfig
from system.repeating import repeating
from system.report.pages.run_page import write_report
from system.storage.run_directory import RunDirectory
from tests.backbones.small_clip import write_small_clip
from tests.benchmarks.conftest import Performance
from tests.data.coco_files import prepare_coco, write_coco
from tests.integration.small_stream import WORDS, small_experiment

pytestmark = [pytest.mark.benchmark, pytest.mark.ray]

IMAGES = {"train": 4, "val": 1, "test": 2}  # per task
FEW, MANY = 75, 300
SECONDS_BETWEEN_LOOKS = 0.5


def names(tasks: int) -> tuple[str, ...]:
    return tuple(f"task-{number:04d}" for number in range(tasks))


def prepare(root: Path, tasks: int) -> None:
    """Tiny tasks in MSCOCO's format, and a random CLIP."""
    prepare_coco(write_coco(root / "coco", IMAGES, names(tasks)), str(root / "data" / "small"))
    write_small_clip(root / "clip", WORDS)


def settings(root: Path, tasks: int, *more: str) -> ExperimentConfig:
    chosen = f"benchmark.tasks=[{','.join(names(tasks))}]"
    return small_experiment(
        root, "many", "cluster.workers=0", "stage.epochs=1", "stage.batch_size=4", chosen, *more
    )


class ActorMemory:
    """What the processes of task streams had in memory when first seen, and at most, in MB."""

    def __init__(self) -> None:
        self.first = self.most = 0.0

    def look(self) -> None:
        for entry in Path("/proc").glob("[0-9]*"):
            if b"ray::TaskStreamServer" in (entry / "cmdline").read_bytes():
                fields = (entry / "status").read_text().split()
                now = int(fields[fields.index("VmRSS:") + 1]) * 1024 / 1e6
                self.first = self.first or now
                self.most = max(self.most, now)


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("tasks", [FEW, MANY])
def test_a_run_of_tiny_tasks(tmp_path: Path, performance: Performance, tasks: int) -> None:
    """All of `promptide run`, in one process: evaluation of all tasks after each, page and all."""
    prepare(tmp_path, tasks)
    experiment, memory = settings(tmp_path, tasks), ActorMemory()
    with repeating(
        memory.look, SECONDS_BETWEEN_LOOKS, name="memory", passing=(OSError, ValueError)
    ):
        carry_out(experiment, Console(file=io.StringIO()))
    run = tmp_path / "runs" / "many"
    write_report(str(run))
    learned = sorted(file.stat().st_mtime for file in (run / "adapters").glob("task-*"))
    quarter = tasks // 4
    seconds = [
        (learned[end - 1] - learned[max(end - quarter - 1, 0)]) / quarter
        for end in range(quarter, tasks + 1, quarter)
    ]
    performance.table(
        f"A run of {tasks} tasks of four images",
        ("seconds per task by quarters", "actor, MB at first", "at most", *written(run)),
        [
            [
                ", ".join(f"{each:.2f}" for each in seconds),
                f"{memory.first:.0f}",
                f"{memory.most:.0f}",
                *(f"{value / tasks / 1000:.2f}" for value in written(run).values()),
            ]
        ],
        "Files in KB per task. A task is evaluated on all tasks, and its seconds grow with them.",
    )


def written(run: Path) -> dict[str, int]:
    """Bytes by what they are."""
    parts = {
        "run folder": run,
        "journal": run / "stream",
        "adapters": run / "adapters",
        "matrix": run / "accuracy_matrix.parquet",
        "metrics.json": run / "metrics.json",
        "page": run / "report.html",
    }
    return {name: size(part) for name, part in parts.items()}


def test_appends_to_a_live_run(tmp_path: Path, performance: Performance) -> None:
    """Each one a task, by what `promptide stream append` calls, before the run has started."""
    prepare(tmp_path, MANY)
    live = ("stream.live=true", f"stream.max_pending={MANY}")
    experiment = settings(tmp_path, 1, *live)
    journal = Path(RunDirectory.of(experiment).stream.path)
    grown: list[int] = []
    for name in names(MANY)[1:]:
        before = size(journal) if journal.exists() else 0
        append(experiment, [name], wait=False)
        grown.append(size(journal) - before)
    performance.table(
        f"{MANY - 1} appends to a live run",
        ("bytes of the journal per append: first ten", "last ten"),
        [[f"{sum(grown[1:11]) / 10:.0f}", f"{sum(grown[-10:]) / 10:.0f}"]],
    )
