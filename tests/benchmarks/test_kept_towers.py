"""Steps and evaluation on the small GLIP with frozen towers kept, against computing them anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from system.config.schema import GrounderConfig
from system.grounders.grounder import (
    GroundingBatch,
    KeepingGrounder,
    KeptOutputs,
    ScoredBoxes,
    load_grounder,
)
from system.methods.base import GroundingSetting
from system.methods.sharing import StreamMethod, build_method
from tests.benchmarks.conftest import Performance

SAMPLES = 32
RUNS = 7
TEXTS = ["the red cup on the left", "a dog", "the bus above the clock", "the second car"]
METHODS: dict[str, dict[str, Any]] = {
    "zero_shot": {},
    "coop": {"context_length": 4},
    "cocoop": {},
    "linear_probing": {},
    "clip_adapter": {},
    "vpt": {},
}


@pytest.fixture(scope="module")
def grounder() -> KeepingGrounder:
    loaded = load_grounder(GrounderConfig("glip", "shipped:tiny_grounder"))
    assert isinstance(loaded, KeepingGrounder)
    return loaded


def batch_of(grounder: KeepingGrounder) -> GroundingBatch:
    side = grounder.shape.image_size
    images = torch.randn(SAMPLES, 3, side, side, generator=torch.Generator().manual_seed(0))
    texts = (TEXTS * SAMPLES)[:SAMPLES]
    boxes = [torch.tensor([[0.2, 0.3, 0.6, 0.7]])] * SAMPLES
    return GroundingBatch(images, grounder.tokenize(texts), boxes)


def kept_batch(
    grounder: KeepingGrounder, batch: GroundingBatch, method: StreamMethod
) -> GroundingBatch:
    """The same batch with what the method leaves as it is."""
    reach = method.reach(grounder)
    image, features = grounder.image_outputs(batch.images, None, reach.image or "levels")
    kept = KeptOutputs(words=None if reach.text else grounder.text_outputs(batch.tokens))
    if reach.image is not None:
        kept = KeptOutputs(reach.image, image, features, kept.words)
    return GroundingBatch(batch.images, batch.tokens, batch.targets, kept=kept)


def seconds(run: Callable[[GroundingBatch], object], batches: list[GroundingBatch]) -> list[float]:
    """The least processor time of each batch, taken in turn."""
    least = [float("inf")] * len(batches)
    for _ in range(RUNS):
        for at, batch in enumerate(batches):
            start = time.process_time()
            run(batch)
            least[at] = min(least[at], time.process_time() - start)
    return least


@pytest.mark.benchmark
@pytest.mark.parametrize("name", METHODS)
def test_a_step_and_an_evaluation(
    grounder: KeepingGrounder, name: str, performance: Performance
) -> None:
    method = build_method({"name": name, **METHODS[name]}, GroundingSetting(grounder.shape, 0))
    method.begin_task(0, grounder)
    tasks = torch.zeros(SAMPLES, dtype=torch.long)
    batch = batch_of(grounder)
    batches = [batch, kept_batch(grounder, batch, method)]

    def step(given: GroundingBatch) -> None:
        losses = grounder.losses(given, method.entries(grounder, given, tasks, None))
        total = torch.stack([loss.mean() for loss in losses.values()]).sum()
        torch.autograd.grad(total, list(method.parameters()), allow_unused=True)

    def evaluate(given: GroundingBatch) -> list[ScoredBoxes]:
        return grounder.ground(given, method.entries(grounder, given, tasks, None))

    steps = {"step": step} if list(method.parameters()) else {}
    for what, run in {**steps, "evaluation": evaluate}.items():
        plain, kept = seconds(run, batches)
        performance.compare(
            f"small GLIP, {name}: {what} of {SAMPLES} with frozen towers kept",
            ours=1e3 * kept,
            other=1e3 * plain,
            unit="ms of processor",
            against="towers computed each time",
        )
    for first, second in zip(*(evaluate(given) for given in batches), strict=True):
        assert torch.equal(first.boxes, second.boxes), "what is compared is not the same work"
