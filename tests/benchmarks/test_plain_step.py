"""The plain step computes what ours does: else a ratio of the two would say nothing."""

from pathlib import Path
from typing import Any

import torch

from system.backbones.clip import ClipBackbone, load_clip
from system.config.schema import OptimiserConfig
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.optimisation import build_optimiser
from system.engine.worker_group import WorkerGroup
from system.methods.base import RetrievalSetting
from system.methods.sharing import StreamMethod, build_method
from tests.backbones.small_clip import write_small_clip
from tests.benchmarks.plain_step import plain_batch, plain_factors, plain_step

LENGTH, BATCH, STEPS, BOUND = 4, 4, 3, 0.05
ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))


def our_steps(backbone: ClipBackbone, method: StreamMethod, batch: TokenBatch) -> list[float]:
    parameters = method.task_parameters(0)
    optimiser = build_optimiser(OptimiserConfig(), parameters)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        terms = accumulate_gradients(
            PromptedEncoder(method, backbone), [batch], ALONE, backbone.logit_scale, None
        )
        torch.nn.utils.clip_grad_norm_(parameters.values(), BOUND)
        optimiser.step()
        losses.append(sum(map(float, terms.values())))
    return losses


def test_plain_step_learns_what_ours_learns(tmp_path: Path) -> None:
    clip: Any = load_clip(str(write_small_clip(tmp_path, ["a", "b", "c", "d"])))
    pixels, ids = plain_batch(clip.model, BATCH, words=5, length=LENGTH)
    section = {"name": "lpi", "prompt_length": LENGTH, "interaction": {"depth": 0}}
    method = build_method(section, RetrievalSetting(clip.shape, 0))
    method.begin_task(0, clip)
    ours = {name.split("factors.")[-1]: p for name, p in method.task_parameters(0).items()}
    factors = plain_factors(clip.model, length=LENGTH)
    assert factors.keys() == ours.keys()
    for name, factor in factors.items():
        factor.data.copy_(ours[name])
    optimiser = torch.optim.SGD(factors.values(), lr=0.1, momentum=0.9)
    theirs = [
        float(plain_step(clip.model, factors, optimiser, pixels, ids, BOUND)) for _ in range(STEPS)
    ]
    losses = our_steps(clip, method, TokenBatch(pixels, ids))
    assert losses[-1] < losses[0]
    torch.testing.assert_close(torch.tensor(theirs), torch.tensor(losses), rtol=1e-5, atol=1e-5)
    for name, factor in factors.items():
        torch.testing.assert_close(factor.detach(), ours[name].detach(), rtol=1e-4, atol=1e-5)
