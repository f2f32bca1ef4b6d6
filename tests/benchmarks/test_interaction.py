"""What LPI's interaction costs in parameters and in the time of a step, as ratios of one run."""

import time

import pytest
import torch

from system.backbones.dual_encoder import DualEncoder, load_backbone
from system.config.compose import compose
from system.config.schema import OptimiserConfig
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.optimisation import build_optimiser
from system.engine.worker_group import WorkerGroup
from system.methods.base import RetrievalSetting
from system.methods.sharing import StreamMethod, build_method
from tests.benchmarks.conftest import Performance

BATCH, STEPS = 32, 12
ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
SETTINGS = {"off": "method.interaction.depth=0", "on": "method.interaction.depth=null"}


def step(method: StreamMethod, backbone: DualEncoder, batch: TokenBatch) -> float:
    """Seconds of one optimisation step of the second task."""
    optimiser = build_optimiser(OptimiserConfig(), method.task_parameters(1))
    model, similarity = PromptedEncoder(method, backbone), torch.eye(2)
    start = time.perf_counter()
    accumulate_gradients(model, [batch], ALONE, backbone.logit_scale, similarity)
    optimiser.step()
    return time.perf_counter() - start


@pytest.mark.benchmark
def test_interaction_in_parameters_and_time(performance: Performance) -> None:
    methods: dict[str, StreamMethod] = {}
    for name, override in SETTINGS.items():
        experiment = compose(["experiment=demo", override])
        backbone = load_backbone(experiment.backbone)
        methods[name] = build_method(experiment.method, RetrievalSetting(backbone.shape, 0))
        methods[name].begin_task(1, backbone)
    images = torch.randn(BATCH, 3, *[backbone.shape.image_size] * 2)
    ids = backbone.tokenize(["a red apple and a dog"] * BATCH, methods["on"].placeholders)
    batch = TokenBatch(images, ids)
    # In turn, so that what else runs on the machine meets both; the least is the least disturbed.
    seconds = [{n: step(m, backbone, batch) for n, m in methods.items()} for _ in range(STEPS)]
    off, on = (min(each[name] for each in seconds) for name in SETTINGS)
    numbers = {name: method.parameters_per_task() for name, method in methods.items()}
    for what, ours, other, unit in (
        ("trainable parameters per task", numbers["on"], numbers["off"], "parameters"),
        (f"a step of {BATCH}", 1e3 * on, 1e3 * off, "ms"),
    ):
        performance.compare(
            f"LPI's interaction in every layer, small CLIP: {what}",
            ours=ours,
            other=other,
            unit=unit,
            against="without interaction",
        )
    assert numbers["on"] > numbers["off"]
