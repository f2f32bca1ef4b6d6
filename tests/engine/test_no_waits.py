"""A training step reads nothing from the device, on a device from which nothing can be read.

Tensors of PyTorch's device "meta" have no numbers: whatever wants one on the host raises, as does
every operation whose result's size depends on numbers. On a GPU each of these would wait for all
work before it. Copies to the device, which wait as well unless they come from pinned memory, are
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPModel
from typing_extensions import override

from system.backbones.clip import ClipBackbone
from system.config.schema import OptimiserConfig
from system.engine.epochs import EpochLoop
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.optimisation import build_optimiser
from system.engine.step_watch import StepWatch
from system.engine.training import Training
from system.engine.worker_group import WorkerGroup
from system.methods.base import METHODS, methods_on
from system.methods.sharing import StreamMethod, method_kind
from tests.methods.method_parts import backbone, build, images, tokens

DEVICE = torch.device("meta")
STEPS = 6
SMALL = {"prompt_length": 2, "text_prompt_length": 2, "pool_size": 4, "top_k": 2}
LEARNING = [
    name
    for name in methods_on("retrieval")
    if method_kind({"name": name}, "retrieval").learns_at(1, 2)
]


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the copies from the host to the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[-1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            if source.device != result.device:
                self.found.append(str(func))
        return result


class Unread(Training):
    """A task of a stream, all of it on the device."""

    subject = "a task"
    remedy = ""
    epochs = 1
    gradient_norm = 1.0

    def __init__(self, method: StreamMethod, model: ClipBackbone, optimiser: str) -> None:
        self.group = WorkerGroup(rank=0, size=1, device=DEVICE)
        self.model, self.scale = PromptedEncoder(method, model), model.logit_scale
        self.batch = TokenBatch(images().to(DEVICE), tokens(method).to(DEVICE))
        self.similarity = torch.eye(2, device=DEVICE)
        self.parameters = method.task_parameters(1)
        config = OptimiserConfig(optimiser)  # type: ignore[arg-type]
        self.optimiser = build_optimiser(config, self.parameters)

    @override
    def batches(self, epoch: int, start: int) -> tuple[int, Generator[TokenBatch, None, None]]:
        return STEPS, (self.batch for _ in range(STEPS))

    @override
    def gradients(self, batch: TokenBatch) -> dict[str, Tensor]:
        return accumulate_gradients(self.model, [batch], self.group, self.scale, self.similarity)

    @override
    def row(
        self, epoch: int, steps: int, terms: Mapping[str, float], steps_per_second: float
    ) -> dict[str, Any]:
        return {}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has none; the losses and the backbone switch it off here anyway."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each look found; nothing is there to be read."""
    found: list[int] = []

    def look(watch: StepWatch) -> tuple[list[dict[str, float]], None]:
        steps, watch._steps = watch._steps, []
        found.append(len(steps))
        return [dict.fromkeys(step.terms, 0.0) for step in steps], None

    monkeypatch.setattr(StepWatch, "look", look)
    return found


def training(name: str, optimiser: str = "sgd") -> Unread:
    model = ClipBackbone(CLIPModel(backbone().model.config), backbone().tokenizer)
    of_method = {field.name for field in fields(METHODS.get(name).config)}
    method = build(name, {key: value for key, value in SMALL.items() if key in of_method})
    if name != "coda_prompt":  # whose new prompts are made from the older ones' numbers
        model.to(DEVICE)  # as a worker does, before a task begins
    for task in (0, 1):
        method.begin_task(task, model)
    model.to(DEVICE)
    method.to(DEVICE)
    return Unread(method, model, optimiser)


@pytest.mark.parametrize("every", [2, 3, 25])
def test_between_two_looks_nothing_is_read(looks: list[int], every: int) -> None:
    learner = training("lpi")
    learner.check_every = every
    with Copies() as copies:
        EpochLoop(learner, None).epoch()  # type: ignore[arg-type]
    assert looks == [min(every, STEPS)] * (STEPS // min(every, STEPS))
    assert copies.found == []


@pytest.mark.parametrize("name", LEARNING)
def test_no_method_s_step_waits(looks: list[int], name: str) -> None:
    learner = training(name, "adam")
    with Copies() as copies:
        EpochLoop(learner, None).epoch()  # type: ignore[arg-type]
    assert copies.found == []


def test_a_read_and_a_copy_are_seen() -> None:
    """Else the tests above could not fail."""
    number = torch.zeros((), device=DEVICE)
    reads: tuple[Callable[[Tensor], object], ...] = (
        *(float, bool, Tensor.item, Tensor.tolist),
        *(Tensor.nonzero, Tensor.unique, Tensor.cpu),
    )
    for read in reads:
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(number)
    with Copies() as copies:
        torch.zeros(2).to(DEVICE)
    assert len(copies.found) == 1
