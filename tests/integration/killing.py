"""Finds the processes that a test kills, and the moment for it."""

import time
from collections.abc import Callable
from pathlib import Path

DEADLINE = 240  # seconds; a loaded machine takes its time to start processes


def worker_pids(ancestor: int) -> list[int]:
    """Training workers among the descendants of a process."""
    parents, workers = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # gone since
        parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
        if b"RayTrainWorker" in command:
            workers.append(int(entry.name))

    def descends(pid: int) -> bool:
        while pid > 1:
            if pid == ancestor:
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid in workers if descends(pid)]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Until it holds, at most DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"waited {DEADLINE} s for {what}"
        time.sleep(0.05)
