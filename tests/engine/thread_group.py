"""A worker group of threads: collectives without processes, for tests of what workers share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, BrokenBarrierError
from typing import Any, TypeVar

import torch
from torch import Tensor

from system.engine.worker_group import WorkerGroup

Result = TypeVar("Result")
CPU = torch.device("cpu")
ALONE = WorkerGroup(rank=0, size=1, device=CPU)


@dataclass
class _Exchange:
    barrier: Barrier
    values: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ThreadGroup(WorkerGroup):
    """One rank of `size` threads."""

    exchange: _Exchange = field(kw_only=True)

    def gather_equal(self, local: Tensor) -> Tensor:
        """See `WorkerGroup.gather_equal`."""
        return torch.cat(self._all(local))

    def gather_rows(self, local: Tensor) -> Tensor:
        """See `WorkerGroup.gather_rows`."""
        return torch.cat(self._all(local))

    def total(self, local: Tensor) -> Tensor:
        """See `WorkerGroup.total`."""
        return torch.stack(self._all(local)).sum(0)

    def broadcast(self, value: Any) -> Any:
        """See `WorkerGroup.broadcast`."""
        return self._all(value)[0]

    def _all(self, value: Any) -> list[Any]:
        self.exchange.values[self.rank] = value
        self.exchange.barrier.wait(timeout=300)
        found = [self.exchange.values[rank] for rank in range(self.size)]
        self.exchange.barrier.wait(timeout=300)
        return found


def on_threads(size: int, work: Callable[[WorkerGroup], Result]) -> list[Result]:
    """What `work` returns on each rank; an error on one rank ends the others, and is raised."""
    exchange = _Exchange(Barrier(size))

    def run(rank: int) -> Result:
        try:
            return work(ThreadGroup(rank=rank, size=size, device=CPU, exchange=exchange))
        except BaseException:
            exchange.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        ranks = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for rank in ranks if (error := rank.exception()) is not None]
    # A rank that waited for the one that failed has only the broken barrier to tell of.
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    return [rank.result() for rank in ranks]
