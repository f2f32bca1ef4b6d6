"""How many threads decode images in a worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from system.config.schema import StageConfig


def loader_threads(stage: StageConfig, note: Callable[[str], None] = lambda _: None) -> int:
    """The setting's number; "auto": one per CPU of this worker, which `note` is told."""
    if stage.loader_threads != "auto":
        return stage.loader_threads
    cpus, whose = worker_cpus()
    threads = max(1, int(cpus))
    note(f"loader threads: {threads}, of {cpus:g} CPUs {whose}")
    return threads


def worker_cpus() -> tuple[float, str]:
    """The CPUs that this process may use, and who says so.

    In a worker of Ray those that are accounted to it: the machine's others are other workers'.
    """
    ray = sys.modules.get("ray")  # not imported: Ray is not used
    if ray is not None and ray.is_initialized():
        from ray._private.worker import WORKER_MODE, global_worker

        if global_worker.mode == WORKER_MODE:
            assigned = ray.get_runtime_context().get_assigned_resources()
            return float(assigned.get("CPU", 0.0)), "that Ray accounts to this worker"
    return float(len(os.sched_getaffinity(0))), "that this process may run on"
