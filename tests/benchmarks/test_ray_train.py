"""Our epoch loop in a worker of Ray Train, in this process, and plain steps: the same work."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from system.engine.epochs import EpochLoop
from system.engine.worker_group import WorkerGroup
from system.storage.files import Folder
from tests.benchmarks.conftest import Performance
from tests.benchmarks.plain_step import plain_batch, plain_factors, plain_step, plain_vit_b16
from tests.benchmarks.synthetic_steps import SyntheticSteps
from tests.engine.thread_group import ALONE

pytestmark = [pytest.mark.benchmark, pytest.mark.ray]

BATCH, EPOCHS, STEPS, LAYERS = 16, 2, 4, 12
ROUNDS = 2
SECONDS = "seconds.json"


def epochs(folder: str, group: WorkerGroup, layers: int, batch: int, steps: int) -> list[float]:
    """Our loop, with checkpoints, reports and checks as in a run: seconds of each step."""
    clip = plain_vit_b16(layers)
    training = SyntheticSteps(clip, group, plain_batch(clip, batch), epochs=EPOCHS, steps=steps)
    EpochLoop(training, Folder.of(folder)).run()
    return training.step_seconds


def worker_loop(config: dict[str, Any]) -> None:
    """Ray Train's loop; it writes its steps' seconds."""
    torch.set_num_threads(config["threads"])
    sizes = (config["layers"], config["batch"], config["steps"])
    seconds = epochs(config["folder"], WorkerGroup.join(), *sizes)
    Folder.of(config["folder"]).write_json(SECONDS, seconds)


def under_ray(folder: Path, layers: int, batch: int, steps: int) -> tuple[list[float], float]:
    """Seconds of each step in one worker, and of all that is around them."""
    import ray.train
    from ray.train.torch import TorchTrainer

    config = {
        "folder": str(folder),
        "layers": layers,
        "batch": batch,
        "steps": steps,
        "threads": torch.get_num_threads(),
    }
    started = time.perf_counter()
    TorchTrainer(
        worker_loop,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name="bench", storage_path=str(folder / "ray_train")),
    ).fit()
    whole = time.perf_counter() - started
    seconds: list[float] = json.loads((folder / SECONDS).read_text())
    return seconds, whole


def bare(layers: int, batch: int, steps: int) -> list[float]:
    """Seconds of each plain step in this process."""
    clip = plain_vit_b16(layers)
    factors = plain_factors(clip)
    optimiser = torch.optim.SGD(factors.values(), lr=0.001, momentum=0.9)
    pixels, ids = plain_batch(clip, batch)
    seconds = []
    for _ in range(EPOCHS * steps):
        started = time.perf_counter()
        plain_step(clip, factors, optimiser, pixels, ids)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def compare(
    root: Path,
    performance: Performance,
    layers: int = LAYERS,
    batch: int = BATCH,
    steps: int = STEPS,
) -> None:
    """In turn, so that what else runs on the machine meets both alike."""
    ours: list[float] = []
    alone: list[float] = []
    plain: list[float] = []
    around = []
    for number in range(ROUNDS):
        folder = root / str(number)
        folder.mkdir()
        plain += bare(layers, batch, steps)
        (folder / "alone").mkdir()
        alone += epochs(str(folder / "alone"), ALONE, layers, batch, steps)
        seconds, whole = under_ray(folder, layers, batch, steps)
        ours += seconds
        around.append(whole - sum(seconds))
    for other, against in ((alone, "the same loop without Ray"), (plain, "plain PyTorch")):
        performance.compare(
            f"LPI in a Ray Train worker, ViT-B/16 of {layers} layers, batch {batch}: a step",
            ours=median(ours),
            other=median(other),
            unit="s",
            against=against,
            aim="<= 1.05",
        )
    performance.table(
        "Ray Train: what a run pays once",
        ["", "s"],
        [["start and end of the workers, with building the model", f"{median(around):.1f}"]],
        "Once a stream, however many tasks it has; not part of a step.",
    )


def test_ray_train_against_the_bare_loop(
    tmp_path: Path, ray_local: None, performance: Performance
) -> None:
    compare(tmp_path, performance)
