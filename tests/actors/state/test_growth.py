"""A task costs the same among many: in the journal, and on the way to who reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors import stream_run
from actors.state.task_stream_state import TaskStream
from actors.stream_run import StreamRun
from system.config.compose import compose
from system.config.schema import StreamConfig
from system.results.accuracy_matrix import MatrixRow
from system.results.committed_rows import CommittedRows
from tests.actors.streams import make_manifest

TASKS = tuple(f"task-{number:03d}" for number in range(120))
METRICS = ("t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10")


def evaluation(trained: int) -> list[MatrixRow]:
    """All tasks after one of them, which alone differs from before."""
    return [
        MatrixRow(trained, j, metric, 60.0 if j <= trained else 20.0, 4)
        for metric in METRICS
        for j in range(len(TASKS))
    ]


def learn_all(stream: TaskStream) -> None:
    rows = CommittedRows()
    generation = stream.register("run")
    while (lease := stream.lease("run", generation)) is not None:
        payload = {"task": lease.task, "rows": rows.pack(evaluation(lease.index)), "log": []}
        stream.commit("run", generation, lease.task, payload)


def test_the_rows_of_a_commit_do_not_grow_with_the_tasks(tmp_path: Path) -> None:
    """The journal of 300 tiny tasks had 90 MB: a row per task and metric in each commit."""
    learn_all(TaskStream(str(tmp_path / "journal"), make_manifest(tmp_path, TASKS)))
    sizes = [
        len(content)
        for file in sorted((tmp_path / "journal").iterdir())
        if json.loads(content := file.read_bytes())["kind"] == "commit"
    ]
    assert len(sizes) == len(TASKS)
    assert max(sizes[1:]) < min(sizes[1:]) + 50, "only numbers have more digits"
    assert sizes[-1] < 700


def test_an_append_does_not_grow_with_the_pending_tasks(tmp_path: Path) -> None:
    """As long as the new ones come last; each repeated the names of all that were pending."""
    sizes = []
    config = StreamConfig(live=True, max_pending=len(TASKS))
    manifest = make_manifest(tmp_path, TASKS)
    stream = TaskStream(str(tmp_path / "journal"), manifest, tasks=TASKS[:1], config=config)
    for count in range(1, len(TASKS) - 1):
        stream.append([TASKS[count]], list(TASKS[: count + 1]))
        sizes.append(max(tmp_path.glob("journal/*")).stat().st_size)
    assert max(sizes) < min(sizes) + 20, "only numbers have more digits"
    turned = list(reversed(TASKS))
    stream.append(TASKS[-1:], turned)
    again = TaskStream(str(tmp_path / "journal"), manifest, tasks=TASKS[:1], config=config)
    assert again.status()["pending"] == turned


def test_a_snapshot_grows_by_each_task_alone(tmp_path: Path) -> None:
    """It holds all commits, and is what a new actor begins with."""
    sizes = []
    for count in (40, 80, 120):
        place = tmp_path / str(count)
        place.mkdir()
        stream = TaskStream(str(place / "journal"), make_manifest(place, TASKS), until=count)
        learn_all(stream)
        stream.compact()
        (snapshot,) = (place / "journal").glob("snapshot-*")
        sizes.append(snapshot.stat().st_size)
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=0.05)


class Counted:
    """A stream that counts the commits it hands out."""

    def __init__(self) -> None:
        self.done = 0
        self.handed_out = 0

    def status(self) -> dict[str, Any]:
        return {"consumers": {"many": {"committed": self.done}}}

    def committed(self, consumer: str, first: int = 0) -> list[dict[str, Any]]:
        assert consumer == "many"
        self.handed_out += self.done - first
        return [{"task": TASKS[i]} for i in range(first, self.done)]


def test_the_driver_asks_for_each_commit_once(tmp_path: Path) -> None:
    """It asked for all of them after each task."""
    run = StreamRun(compose([f"storage_path={tmp_path}", "run_name=many"]))
    run.stream = counted = Counted()  # type: ignore[assignment]
    for counted.done in range(1, len(TASKS) + 1):
        learned = run.learned()
        assert [payload["task"] for payload in learned] == list(TASKS[: counted.done])
    assert counted.handed_out == len(TASKS)


def test_tables_of_a_live_stream_are_not_rewritten_after_each_of_many_appends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold all tasks: 300 appends would write 45,000 tasks' rows."""
    written: list[int] = []
    monkeypatch.setattr(stream_run, "write_so_far", lambda _, rows: written.append(len(rows)))
    run = StreamRun(
        compose([f"storage_path={tmp_path}", "run_name=live", "stream.live=true"]),
    )
    for count in range(1, 301):
        run.note([{}] * count)
    assert written[:20] == list(range(1, 21)), "of few tasks at once"
    assert written[-1] >= 300 / 1.06
    assert sum(written) < 30 * 300
