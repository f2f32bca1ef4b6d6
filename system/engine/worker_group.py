"""The workers of a Ray Train run, seen from one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from system.engine.cards import cards_of_all, require_own_cards
from system.engine.whereabouts import GATHER, here

if TYPE_CHECKING:  # so that a training step needs no pyarrow
    from system.storage.feature_store import MakeRows, TensorParts


@dataclass(frozen=True)
class WorkerGroup:
    """This worker's place in its group, and what the group can do together.

    Every rank has to call each collective, in the same order.
    """

    rank: int
    size: int
    device: torch.device

    @staticmethod
    def join() -> WorkerGroup:
        """The group that Ray Train started this process for; one alone outside of a group.

        Raises ConfigError where two workers would exchange gradients by NCCL on one GPU.
        """
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        group = _RayGroup(
            rank=context.get_world_rank(),
            size=context.get_world_size(),
            device=ray.train.torch.get_device(),
        )
        if group.size > 1 and group.device.type == "cuda" and dist.get_backend() == "nccl":
            require_own_cards(cards_of_all(group.device, group.size))
        return group

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone talks to the stream and writes files."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank (small plain objects or tensors on the CPU)."""
        if self.size == 1:
            return value
        box = [value if self.leads else None]
        with here().doing(GATHER):
            dist.broadcast_object_list(box, src=0, device=self._collective_device())
        return box[0]

    def gather_equal(self, local: Tensor) -> Tensor:
        """Rows of all ranks in rank order; every rank brings the same shape."""
        if self.size == 1:
            return local
        parts = [torch.empty_like(local) for _ in range(self.size)]
        with here().doing(GATHER):
            dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    def gather_rows(self, local: Tensor) -> Tensor:
        """Rows of all ranks in rank order on the CPU; a rank may bring any number of them."""
        if self.size == 1:
            return local.cpu()
        device = self._collective_device()
        count = torch.tensor([local.shape[0]], device=device)
        counts = [torch.empty_like(count) for _ in range(self.size)]
        with here().doing(GATHER):  # with what reads the result: NCCL returns before it is there
            dist.all_gather(counts, count)
            most = max(int(c) for c in counts)
            padded = torch.zeros((most, *local.shape[1:]), dtype=local.dtype, device=device)
            padded[: local.shape[0]] = local
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
            return torch.cat([p[: int(c)] for p, c in zip(parts, counts, strict=True)]).cpu()

    def total(self, local: Tensor) -> Tensor:
        """The sum of all ranks' integer tensors, which are of one shape, on the CPU."""
        if self.size == 1:
            return local.cpu()
        summed = local.to(self._collective_device(), copy=True)
        with here().doing(GATHER):
            dist.all_reduce(summed)
            return summed.cpu()

    def distribute(self, module: nn.Module, *, broadcast_buffers: bool = True) -> Any:
        """The module on this worker's device, its gradients averaged between the workers."""
        assert self.size == 1, "workers of a group without Ray have no way to exchange gradients"
        return module.to(self.device)

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Wait until all workers are as far; Ray Train takes the metrics as a sign of life."""

    def share(self, count: int) -> range:
        """This rank's part of `count` equal pieces: a contiguous run, `size` must divide it."""
        assert count % self.size == 0, (count, self.size)
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def _collective_device(self) -> torch.device:
        # NCCL moves tensors on the GPU only; gloo those on the CPU.
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")


@dataclass(frozen=True)
class _RayGroup(WorkerGroup):
    """A group that Ray Train started."""

    @override
    def distribute(self, module: nn.Module, *, broadcast_buffers: bool = True) -> Any:
        import ray.train.torch

        settings = {"broadcast_buffers": broadcast_buffers}
        return ray.train.torch.prepare_model(module, parallel_strategy_kwargs=settings)

    @override
    def report(self, metrics: Mapping[str, Any]) -> None:
        import ray.train

        with here().doing(GATHER):
            ray.train.report(dict(metrics))


def make_parts(
    parts: TensorParts,
    group: WorkerGroup,
    make: MakeRows,
    show: Callable[[int, int], None],
) -> None:
    """Have each rank make its share of the parts that are missing; return when all are there.

    Every rank has to call this. A part's rows never depend on who makes it.
    """
    mine = [index for index in range(parts.parts) if index % group.size == group.rank]
    for done, index in enumerate(mine, start=1):
        if not parts.made(index):
            with torch.inference_mode():
                parts.write(index, make(parts.part(index)))
            here().move()
            show(min(done * group.size, parts.parts), parts.parts)
    group.gather_rows(torch.zeros(1))  # until the others are as far
