"""One worker of a model's training: its group, its threads, its log."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from system.engine.model_stage import ModelExperiment
from system.engine.rank_log import RankLog
from system.engine.worker_group import WorkerGroup
from system.storage.run_directory import RunDirectory


@contextmanager
def worker_of(experiment: ModelExperiment) -> Iterator[tuple[WorkerGroup, RankLog]]:
    """Join the group that Ray Train started this process for; each start has a log of its own."""
    group = WorkerGroup.join()
    torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
    logs = RunDirectory.of(experiment).logs
    starts = sum(name.startswith(f"rank-{group.rank}-") for name in logs.names())
    log = RankLog(logs, group.rank, generation=starts)
    with log.ending():
        yield group, log
