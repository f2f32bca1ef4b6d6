"""Worker groups of up to 64 gloo processes, each with the same share of a growing batch.

Run as a program, so that processes are forked before anything computes. All of them share this
machine's few cores: their wall time says nothing of a cluster. What each one computes (its own
processor time) and receives (bytes) says whether a worker's work grows with the number of workers.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from system.engine.worker_group import WorkerGroup

SHARE, LAYERS, STEPS = 2, 2, 4
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
CONTEXT, LENGTH = 32, 4


@dataclass(frozen=True)
class GlooGroup(WorkerGroup):
    """One of so many processes; it counts the bytes of the features that it receives."""

    received: Counter[str]

    @override
    def gather_equal(self, local: Tensor) -> Tensor:
        self.received["gathered"] += local.nbytes * (self.size - 1)
        return super().gather_equal(local)

    @override
    def distribute(self, module: nn.Module, *, broadcast_buffers: bool = True) -> Any:
        if self.size == 1:
            return module
        return DistributedDataParallel(module, broadcast_buffers=broadcast_buffers)

    def averaged(self, parameters: Iterable[Tensor]) -> int:
        """Bytes received where gradients are averaged by a ring, which passes each part on twice.

        All parts but the worker's own come in, first to be added to and then as they are.
        """
        whole = sum(parameter.nbytes for parameter in parameters)
        return 2 * whole * (self.size - 1) // self.size


def worker(rank: int, size: int, folder: str, steps: int) -> None:
    """Make the steps; write what each cost."""
    from tests.benchmarks.plain_step import plain_batch
    from tests.benchmarks.synthetic_steps import SyntheticSteps

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet-{size}", rank=rank, world_size=size)
    group = GlooGroup(rank, size, torch.device("cpu"), Counter())
    clip = small_clip()
    batch = plain_batch(clip, SHARE, words=4, length=LENGTH, context=CONTEXT)
    training = SyntheticSteps(clip, group, batch, epochs=1, steps=steps, length=LENGTH)
    training.begin()
    _, batches = training.batches(0, 0)
    rows: list[tuple[float, float, int]] = []
    for part in batches:
        training.optimiser.zero_grad(set_to_none=True)
        group.received.clear()
        wall, busy = time.perf_counter(), time.process_time()
        training.gradients(part)
        training.optimiser.step()
        spent = time.process_time() - busy, time.perf_counter() - wall
        received = group.received["gathered"] + group.averaged(training.parameters.values())
        rows.append((*spent, received))
    Path(folder, f"rank-{size}-{rank}.json").write_text(json.dumps(rows[1:]))
    dist.destroy_process_group()


def small_clip() -> Any:
    """A frozen CLIP of two thin layers."""
    from transformers import CLIPConfig, CLIPModel

    from tests.benchmarks.plain_step import BEGIN, END

    config = CLIPConfig(
        vision_config={**SIZES, "num_hidden_layers": LAYERS, "image_size": 32, "patch_size": 8},
        text_config={
            **SIZES,
            "num_hidden_layers": LAYERS,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": BEGIN,
            "eos_token_id": END,
        },
        projection_dim=64,
    )
    torch.manual_seed(0)
    return CLIPModel(config).eval().requires_grad_(False)


def simulate(sizes: list[int], steps: int = STEPS) -> list[dict[str, float]]:
    """A row a number of workers: means over workers and steps, but for the first step."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    found = []
    context = get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            processes = [
                context.Process(target=worker, args=(rank, size, folder, steps))
                for rank in range(size)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            files = [Path(folder, f"rank-{size}-{rank}.json") for rank in range(size)]
            rows = [row for file in files for row in json.loads(file.read_text())]
            busy, wall, received = (sum(each) / len(rows) for each in zip(*rows, strict=True))
            found.append({"workers": size, "busy": busy, "wall": wall, "received": received})
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(simulate([int(size) for size in sys.argv[1:]])))
