"""The training step on a GPU: bf16 and compiled layers near float32, and nothing waited for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.clip import ClipBackbone
from system.backbones.computation import Computation
from tests.benchmarks.plain_step import plain_batch, plain_vit_b16
from tests.gpu.throughput import LENGTH, OurStep

pytestmark = pytest.mark.gpu
BATCH, LAYERS = 8, 2


@pytest.fixture(scope="module")
def device() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def clip(device: torch.device) -> Any:
    return plain_vit_b16(LAYERS).to(device)


@contextmanager
def never_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU in the block is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step_of(clip: Any, computation: Computation) -> OurStep:
    return OurStep(clip, *plain_batch(clip, BATCH, length=LENGTH), computation)


def gradient(step: OurStep) -> Tensor:
    """The bounded gradient of the first step, in float64 on the host."""
    step()
    found = [p.grad.flatten() for p in step.parameters.values() if p.grad is not None]
    return torch.cat(found).double().cpu()


def likeness(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def test_bf16_learns_what_fp32_learns(clip: Any) -> None:
    exact = gradient(step_of(clip, Computation("fp32")))
    coarse = gradient(step_of(clip, Computation("bf16")))
    assert not torch.equal(exact, coarse)
    assert likeness(exact, coarse) > 0.95


def test_weights_stored_in_bf16_change_no_bit(clip: Any) -> None:
    computation = Computation("bf16")
    cast = ClipBackbone(copy.deepcopy(clip), computation=computation)
    step = step_of(clip, computation)
    assert any(p.dtype == torch.bfloat16 for p in step.backbone.parameters())
    with torch.inference_mode():
        for modality, inputs in (("vision", step.batch.images), ("text", step.batch.input_ids)):
            assert torch.equal(step.backbone(modality, inputs, None), cast(modality, inputs, None))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_layers_learn_what_the_others_learn(clip: Any, precision: Any) -> None:
    plain = gradient(step_of(clip, Computation(precision)))
    fast = gradient(step_of(clip, Computation(precision, compile=True)))
    assert likeness(plain, fast) > (0.9999 if precision == "fp32" else 0.95)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_between_two_looks_no_step_waits(clip: Any, precision: Any) -> None:
    step = step_of(clip, Computation(precision))
    step()  # libraries set themselves up in the first one
    assert step.every > 5
    with never_waiting():
        for _ in range(4):
            step()


def test_a_look_is_seen(clip: Any) -> None:
    """Else the test before could not fail."""
    number = torch.ones((), device=next(clip.parameters()).device)
    with never_waiting(), pytest.raises(RuntimeError, match="synchronizing"):
        float(number)
