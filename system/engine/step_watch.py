"""Loss terms and gradients of a training's steps: collected on the device, read now and then.

A number that comes from a GPU to the host waits until all work before it is done, and the GPU then
waits for the host's next step. Between two looks nothing is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

NAMED_IMAGES = 8  # of a batch that cannot be learned


class Fault(NamedTuple):
    """The first number out of bounds: what it is of, itself, and in which step."""

    what: str
    value: float
    where: str


@dataclass(frozen=True)
class _Step:
    number: int
    images: str  # names of some of the batch's
    terms: tuple[str, ...]
    values: Tensor  # (terms + 1,) float64: the terms, then the gradient's largest magnitude


class StepWatch:
    """What the steps since the last look left on the device."""

    def __init__(self, largest_loss: float = math.inf) -> None:
        self._largest_loss = largest_loss
        self._steps: list[_Step] = []

    def add(
        self,
        number: int,
        terms: Mapping[str, Tensor],
        gradients: Sequence[Tensor],
        images: Sequence[object] = (),
    ) -> None:
        """Take in the `number`-th step of the epoch: its loss terms () and its gradients."""
        named = ", ".join(map(str, images[:NAMED_IMAGES])) + ", ..." * (len(images) > NAMED_IMAGES)
        found = [*(term.double() for term in terms.values()), largest(gradients)]
        values = torch.stack([value.to(found[0].device) for value in found])
        self._steps.append(_Step(number, named, tuple(terms), values))

    def look(self) -> tuple[list[dict[str, float]], Fault | None]:
        """The loss terms of each step since the last look, and the first fault in them.

        This is the one place where a step's numbers come to the host.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return [], None
        values = iter(torch.cat([step.values for step in steps]).tolist())
        rows: list[dict[str, float]] = []
        fault: Fault | None = None
        for step in steps:
            rows.append({name: next(values) for name in step.terms})
            fault = fault or self._fault(step, rows[-1], next(values))
        return rows, fault

    def _fault(self, step: _Step, terms: Mapping[str, float], gradient: float) -> Fault | None:
        where = f"step {step.number}" + f"; its images here: {step.images}" * bool(step.images)
        for name, value in terms.items():
            if not (math.isfinite(value) and abs(value) < self._largest_loss):
                return Fault("the loss" if name == "loss" else f"the {name} loss", value, where)
        return None if math.isfinite(gradient) else Fault("the gradient", gradient, where)


def largest(tensors: Sequence[Tensor]) -> Tensor:
    """The largest magnitude () in any of the tensors, float64, on their device.

    NaN if there is one; of no tensor it is 0, on the CPU.
    """
    found = [t.detach().abs().amax().float() for t in tensors if t.numel()]
    return torch.stack(found).amax().double() if found else torch.zeros((), dtype=torch.float64)
