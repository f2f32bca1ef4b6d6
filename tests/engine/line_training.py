"""A training of one line through points: the smallest that the epoch loop can run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.engine.training import Progress, Training, epoch_order
from system.engine.worker_group import WorkerGroup
from tests.engine.thread_group import ALONE

POINTS = 14
STEPS = 3  # batches of four; two points are left over
CHECKPOINT_STEPS = 2


class LineTraining(Training):
    """Adam on y = a x + b, with a moving average of the parameters."""

    subject = "the line"
    remedy = "Lower the rate"

    def __init__(
        self,
        group: WorkerGroup = ALONE,
        *,
        origin: Mapping[str, Any] | None = None,
        before: Callable[[int, int], None] = lambda epoch, step: None,
    ) -> None:
        self.group = group
        self.origin = origin or {"digest": "line"}
        self.epochs = 4
        self.checkpoint_steps = CHECKPOINT_STEPS
        self.line = nn.Linear(1, 1)
        with torch.no_grad():
            self.line.weight.fill_(0.3)
            self.line.bias.fill_(-0.1)
        self.parameters = dict(self.line.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = torch.optim.Adam(self.line.parameters(), lr=0.1)
        self.before = before
        self.asked: list[tuple[int, int]] = []
        self.shown: list[Progress] = []
        draw = torch.Generator().manual_seed(3)
        self.x, self.y = torch.randn(2, POINTS, 1, generator=draw)

    @override
    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"average.{name}": a for name, a in self.average.items()}

    @override
    def batches(self, epoch: int, start: int) -> tuple[int, Generator[list[int], None, None]]:
        self.asked.append((epoch, start))
        order = epoch_order(POINTS, 7, 1, epoch)

        def batches() -> Generator[list[int], None, None]:
            for step in range(start, STEPS):
                self.before(epoch, step)
                yield order[step * 4 : step * 4 + 4]

        return STEPS, batches()

    @override
    def set_rate(self, epoch: int, step: int, steps: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = 0.1 / (1 + epoch * steps + step)

    @override
    def gradients(self, batch: list[int]) -> dict[str, Tensor]:
        error = (self.line(self.x[batch]) - self.y[batch]).square().mean()
        size = self.line.weight.square().sum() * 0.01
        (error + size).backward()
        return {"error": error.detach(), "size": size.detach()}

    @override
    def stepped(self, steps: int) -> None:
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.parameters[name], 1 / (1 + steps))

    @override
    def row(
        self, epoch: int, steps: int, terms: Mapping[str, float], steps_per_second: float
    ) -> dict[str, Any]:
        return {"epoch": epoch, "steps": steps, "loss": self.loss(terms), **terms}

    @override
    def images_of(self, batch: list[int]) -> list[int]:
        return batch

    @override
    def show(self, progress: Progress) -> None:
        self.shown.append(progress)
