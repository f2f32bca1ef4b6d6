"""Parts of tensors that a worker group makes together, and a later run finds."""

from collections.abc import Callable

import torch

from system.engine.worker_group import WorkerGroup
from system.storage.feature_store import MakeRows, TensorParts


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
            show(min(done * group.size, parts.parts), parts.parts)
    group.gather_rows(torch.zeros(1))  # until the others are as far
