"""Small streams for the tests: a manifest of three tasks, and what a stream can be asked about."""

import os
import signal
from pathlib import Path
from typing import Any, cast

import ray

from actors.handle import TaskStreamHandle
from actors.state.task_stream_state import COMPACT_AFTER, TaskStream
from system.config.schema import StreamConfig
from system.data.shards.manifest import Manifest, Shard, TaskEntry
from system.data.shards.schema import SCHEMA_VERSION

TASKS = ("animals", "food", "travel")
ROWS = {"train": 40, "val": 8, "test": 12}


def make_manifest(root: Path, tasks: tuple[str, ...] = TASKS, benchmark: str = "tiny") -> Manifest:
    """A manifest whose shards lie under `root`; the stream hands them out and never reads them."""
    entries = [
        TaskEntry(
            task,
            {
                split: (Shard(f"{root}/{task}/{split}.parquet", rows, (rows,), f"{task}-{split}"),)
                for split, rows in ROWS.items()
            },
        )
        for task in tasks
    ]
    return Manifest(SCHEMA_VERSION, benchmark, {}, tuple(entries))


def make_stream(root: Path) -> TaskStream:
    """The stream whose journal lies in root/journal: continued if it is there already."""
    return TaskStream(str(root / "journal"), make_manifest(root))


def make_live_stream(
    root: Path, *tasks: str, max_pending: int = 100, compact_after: int = COMPACT_AFTER
) -> TaskStream:
    """The same, live, with the tasks of its start."""
    config = StreamConfig(live=True, max_pending=max_pending)
    return TaskStream(
        str(root / "journal"),
        make_manifest(root),
        tasks,
        config=config,
        compact_after=compact_after,
    )


def learn_next(stream: TaskStream, consumer: str, generation: int) -> str:
    """Lease and commit the next task; its name."""
    lease = stream.lease(consumer, generation)
    assert lease is not None
    stream.commit(consumer, generation, lease.task, {"task": lease.task})
    return lease.task


def snapshot(stream: TaskStream) -> dict[str, Any]:
    """All that a stream keeps across the death of its process."""
    status = stream.status()
    return {
        "consumers": {
            name: (entry["generation"], entry["current_task"], entry["tasks"])
            for name, entry in status["consumers"].items()
        },
        "tasks": (status["tasks"], status["pending"], status["open"]),
        "committed": {name: stream.committed(name) for name in status["consumers"]},
        "opens": stream.access_log().to_pylist(),
    }


def process_of(handle: TaskStreamHandle) -> int:
    """The process that the stream's actor runs in."""
    return cast(int, ray.get(handle.actor.__ray_call__.remote(lambda _: os.getpid())))


def kill_process(handle: TaskStreamHandle) -> None:
    """SIGKILL the actor's process: what the kernel does when memory is out."""
    os.kill(process_of(handle), signal.SIGKILL)
