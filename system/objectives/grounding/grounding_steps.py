"""What trainings on a grounder share: batches of expressions, and the gradient of a step.

A step's batch is cut into S micro-batches. Each one's gradient is computed by one worker and
gathered by itself, and every worker adds all of them in one order: a method has few parameters, so
this costs little, and no sum depends on who computed its parts.

Legend: B global batch, S micro-batches, b = B / S, G trained numbers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from system.data.shards.image_batches import group_of_rows, image_batches, shuffled_by_group
from system.engine.worker_group import WorkerGroup
from system.grounders.grounder import Grounder, GroundingBatch, Tokens
from system.objectives.grounding.rec_scoring import ChosenExpressions


class Sample(NamedTuple):
    """One expression of several tasks'."""

    task: int
    at: int  # in the task's chosen expressions


Batch = list[list[Sample]]  # one worker's micro-batches of a step


def expression_batches(
    tasks: Sequence[ChosenExpressions],
    *,
    batch_size: int,
    micro_batches: int,
    mine: range,
    seed: Sequence[int],
) -> list[Batch]:
    """The micro-batches `mine` of each step of an epoch over all tasks' expressions, shuffled.

    Full batches alone: the other expressions sit the epoch out, others with each `seed`.
    """
    samples = [Sample(task, at) for task, chosen in enumerate(tasks) for at in range(len(chosen))]
    of_row = [group_of_rows(chosen.handle) for chosen in tasks]
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (task, at) in enumerate(samples):
        row = tasks[task].expressions[at].row
        groups.setdefault((task, of_row[task][row]), []).append(place)
    order = shuffled_by_group(list(groups.values()), seed)
    size = batch_size // micro_batches
    return [
        [
            [samples[order[step * batch_size + part * size + at]] for at in range(size)]
            for part in mine
        ]
        for step in range(len(samples) // batch_size)
    ]


def batch_images(
    tasks: Sequence[ChosenExpressions],
    batches: Iterable[Batch],
    grounder: Grounder,
    threads: int,
) -> Generator[Tensor, None, None]:
    """Images (b, 3, H, W) of each micro-batch of each step, in turn; see `image_batches`."""
    return image_batches(
        [chosen.handle for chosen in tasks],
        [
            [(s.task, tasks[s.task].expressions[s.at].row) for s in part]
            for batch in batches
            for part in batch
        ],
        transform=grounder.image_transform(),
        threads=threads,
    )


def grounding_batch(
    tasks: Sequence[ChosenExpressions],
    part: Sequence[Sample],
    images: Tensor,
    grounder: Grounder,
    device: torch.device,
) -> GroundingBatch:
    """A micro-batch with its boxes on a device."""
    expressions = [tasks[s.task].expressions[s.at] for s in part]
    tokens: Tokens = grounder.tokenize([e.text for e in expressions]).to(device)
    boxes = [torch.tensor([e.box], device=device) for e in expressions]
    return GroundingBatch(images.to(device), tokens, boxes)


def gathered_gradient(
    parameters: Mapping[str, nn.Parameter],
    parts: Iterable[Mapping[str, Tensor]],
    group: WorkerGroup,
) -> tuple[Tensor, dict[str, float]]:
    """The gradient (G,) of the global batch's loss, and its terms.

    `parts` are the loss terms of this worker's micro-batches, computed one after the other: (b,) a
    sample, or () for a term of the parameters alone, which is the same in all of them. Every rank
    has to call this with as many.
    """
    rows, terms = [], []
    names: list[str] = []
    for losses in parts:
        means = {name: value.mean() for name, value in losses.items()}
        total = torch.stack(list(means.values())).sum()
        gradients = torch.autograd.grad(
            total, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        terms.append(torch.stack([value.detach().double() for value in means.values()]))
        names = list(means)
    gradient = group.gather_equal(torch.stack(rows)).mean(dim=0)  # (S, G) -> (G,)
    values = group.gather_equal(torch.stack(terms)).mean(dim=0)
    return gradient, dict(zip(names, values.tolist(), strict=True))


def put_gradient(parameters: Mapping[str, nn.Parameter], gradient: Tensor) -> None:
    """Give each parameter its part of a gradient (G,)."""
    start = 0
    for parameter in parameters.values():
        size = parameter.numel()
        parameter.grad = gradient[start : start + size].view_as(parameter)
        start += size
