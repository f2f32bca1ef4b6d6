"""LPI's real training steps on made-up batches: no files, no loader, any sizes, any group."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from system.backbones.clip import ClipBackbone
from system.config.schema import OptimiserConfig
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.optimisation import build_optimiser
from system.engine.training import Training
from system.engine.worker_group import WorkerGroup
from system.methods.base import RetrievalSetting
from system.methods.sharing import build_method


class SyntheticSteps(Training):
    """Epochs of `steps` steps, all on one batch: this worker's share of the global one.

    It notes when each step began, so that a loop can be timed from the inside.
    """

    subject = "made-up batches"
    remedy = "Lower the rate"

    def __init__(
        self,
        clip: Any,
        group: WorkerGroup,
        batch: tuple[Tensor, Tensor],
        *,
        epochs: int,
        steps: int,
        length: int = 16,
    ) -> None:
        """`length` is the prompts', for which the batch's texts have placeholders."""
        self.group = group
        self.epochs = epochs
        self.steps = steps
        self.origin = {}
        self.backbone = ClipBackbone(clip)
        section = {"name": "lpi", "prompt_length": length, "interaction": {"depth": 0}}
        self.method = build_method(section, RetrievalSetting(self.backbone.shape, 0))
        self.method.begin_task(0, self.backbone)
        self.parameters = self.method.task_parameters(0)
        self.optimiser = build_optimiser(OptimiserConfig(learning_rate=0.001), self.parameters)
        self.batch = TokenBatch(*batch)
        self.began: list[float] = []

    @override
    def begin(self) -> None:
        encoder = PromptedEncoder(self.method, self.backbone)
        self._model: Any = self.group.distribute(encoder, broadcast_buffers=False)

    @override
    def batches(self, epoch: int, start: int) -> tuple[int, Generator[TokenBatch, None, None]]:
        return self.steps, (self.batch for _ in range(start, self.steps))

    @override
    def gradients(self, batch: TokenBatch) -> Any:
        self.began.append(time.perf_counter())
        return accumulate_gradients(
            self._model, [batch], self.group, self.backbone.logit_scale, None
        )

    @override
    def row(
        self, epoch: int, steps: int, terms: Mapping[str, float], steps_per_second: float
    ) -> dict[str, Any]:
        return {"epoch": epoch, **terms}

    @property
    def step_seconds(self) -> list[float]:
        """From the beginning of each step to that of the next one in its epoch."""
        pairs = zip(self.began, self.began[1:], strict=False)
        return [
            after - before
            for number, (before, after) in enumerate(pairs, start=1)
            if number % self.steps
        ]
