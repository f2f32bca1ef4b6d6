"""Training of a method on a frozen grounder, the same to the bit for any number of workers.

A step's batch is cut into S micro-batches. Each one's gradient is computed by one worker and
gathered by itself, and every worker adds all of them in one order: a method has few parameters, so
this costs little, and no sum depends on who computed its parts.

Legend: n expressions, B global batch, S micro-batches, b = B / S, G trained numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from system.backbones.grounder import Grounder, GroundingBatch
from system.data.expression_images import group_of_rows, image_batches, shuffled_by_group
from system.prompts.grounding_method import GroundingMethod
from system.stages.alignment_plan import AlignmentSettings
from system.stages.model_checkpoint import ModelCheckpoint
from system.stages.model_epochs import (
    DivergedModelError,
    restore_training,
    trained,
    training_state,
)
from system.stages.model_stage import Show
from system.stages.optimisation import OptimiserConfig, build_optimiser
from system.stages.prompt_latents import SplitLatents
from system.stages.rec_scoring import ChosenExpressions
from system.stages.worker_group import WorkerGroup
from system.storage.adapters import prefixed, under

_ORDER = 1  # branch of the seed
_POSITION = "position"  # steps done in the running epoch, and the seconds of all so far
_SUMS = "sums"  # of the loss terms over these steps


class _Sample(NamedTuple):
    task: int
    at: int  # in the task's chosen expressions


class AlignmentTraining:
    """A method, its optimiser, and the epochs over the expressions of all tasks."""

    def __init__(
        self,
        settings: AlignmentSettings,
        grounder: Grounder,
        method: GroundingMethod,
        tasks: Sequence[ChosenExpressions],
        group: WorkerGroup,
        *,
        seed: int,
        digest: str,
        show: Show,
        latents: Sequence[SplitLatents] | None = None,
    ) -> None:
        self.settings = settings
        self.grounder = grounder
        self.method = method
        self.tasks = tasks
        self.group = group
        self.seed = seed
        self.digest = digest
        self.show = show
        self.latents = latents
        self.parameters = dict(sorted(trained(method).items()))
        self.optimiser = build_optimiser(
            OptimiserConfig("adamw", settings.learning_rate, weight_decay=settings.weight_decay),
            self.parameters,
        )
        self.log: list[dict[str, float]] = []
        self.seconds = 0.0
        self._step = 0  # of the running epoch
        self._sums: dict[str, float] = {}
        self._samples = [
            _Sample(task, index)
            for task, chosen in enumerate(tasks)
            for index in range(len(chosen))
        ]

    @property
    def steps(self) -> int:
        """Steps of an epoch: full batches; the other expressions sit it out, others each epoch."""
        return len(self._samples) // self.settings.batch_size

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return len(self.log) >= self.settings.epochs

    def state(self) -> ModelCheckpoint:
        """All that `restore` needs."""
        state = training_state(self.digest, self.log, self.parameters, self.optimiser)
        position = torch.tensor([self._step, self.seconds], dtype=torch.float64)
        sums = {name: torch.tensor(v, dtype=torch.float64) for name, v in self._sums.items()}
        tensors = state.tensors | {_POSITION: position} | prefixed(_SUMS, sums)
        return replace(state, tensors=tensors)

    def restore(self, state: ModelCheckpoint) -> None:
        """Go on from a checkpoint. Raises ConfigError if it belongs to another training."""
        self.log = restore_training(state, self.digest, self.parameters, self.optimiser)
        self._step, self.seconds = (
            int(state.tensors[_POSITION][0]),
            float(state.tensors[_POSITION][1]),
        )
        self._sums = {name: float(v) for name, v in under(_SUMS, state.tensors).items()}

    def epoch(self) -> Iterator[None]:
        """Train to the end of the running epoch, pausing where a checkpoint is due."""
        batches = self._batches(len(self.log))[self._step :]
        images = image_batches(
            [chosen.grant for chosen in self.tasks],
            [
                [(s.task, self.tasks[s.task].expressions[s.at].row) for s in part]
                for batch in batches
                for part in batch
            ],
            transform=self.grounder.image_transform(),
            threads=self.settings.loader_threads,
        )
        started = time.perf_counter()
        with closing(images):
            for batch in batches:
                self._train(batch, images)
                now = time.perf_counter()
                self.seconds, started = self.seconds + now - started, now
                if self._step < self.steps and self._step % self.settings.checkpoint_steps == 0:
                    yield
                    started = time.perf_counter()
        means = {name: value / self.steps for name, value in self._sums.items()}
        self.log.append({"epoch": len(self.log), "steps": self.steps, **means})
        self._step, self._sums = 0, {}
        yield

    def _batches(self, epoch: int) -> list[list[list[_Sample]]]:
        """This worker's micro-batches of each step of an epoch."""
        settings = self.settings
        groups: dict[tuple[int, int], list[int]] = {}
        of_row = [group_of_rows(chosen.grant) for chosen in self.tasks]
        for place, sample in enumerate(self._samples):
            row = self.tasks[sample.task].expressions[sample.at].row
            groups.setdefault((sample.task, of_row[sample.task][row]), []).append(place)
        order = shuffled_by_group(list(groups.values()), [self.seed, _ORDER, epoch])
        size = settings.batch_size // settings.micro_batches
        mine = self.group.share(settings.micro_batches)
        return [
            [
                [
                    self._samples[order[step * settings.batch_size + part * size + at]]
                    for at in range(size)
                ]
                for part in mine
            ]
            for step in range(self.steps)
        ]

    def _train(self, batch: Sequence[Sequence[_Sample]], images: Iterator[Tensor]) -> None:
        """One step: the gradients of all micro-batches, added in their order, and an update."""
        rows, terms = [], []
        for part in batch:
            losses = self._losses(part, next(images))
            means = {name: value.mean() for name, value in losses.items()}
            total = torch.stack(list(means.values())).sum()
            gradients = torch.autograd.grad(
                total, list(self.parameters.values()), allow_unused=True, materialize_grads=True
            )
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
            terms.append(torch.stack([value.detach().double() for value in means.values()]))
        gradient = self.group.gather_equal(torch.stack(rows)).mean(dim=0)  # (S, G) -> (G,)
        values = self.group.gather_equal(torch.stack(terms)).mean(dim=0)
        self._require_finite(dict(zip(means, values.tolist(), strict=True)), gradient)
        start = 0
        for parameter in self.parameters.values():
            size = parameter.numel()
            parameter.grad = gradient[start : start + size].view_as(parameter)
            start += size
        self.optimiser.step()
        self._step += 1
        for name, value in zip(means, values.tolist(), strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._sums["loss"] = self._sums.get("loss", 0.0) + float(values.sum())
        done, total_steps = (
            len(self.log) * self.steps + self._step,
            self.settings.epochs * self.steps,
        )
        figures = f"loss {self._sums['loss'] / self._step:.4f}"
        self.show("alignment", done, total_steps, figures)

    def _losses(self, part: Sequence[_Sample], images: Tensor) -> Mapping[str, Tensor]:
        """The grounder's loss terms (b,) of one micro-batch."""
        device = self.group.device
        expressions = [self.tasks[s.task].expressions[s.at] for s in part]
        tokens = self.grounder.tokenize([e.text for e in expressions]).to(device)
        boxes = [torch.tensor([e.box], device=device) for e in expressions]
        batch = GroundingBatch(images.to(device), tokens, boxes)
        entries = self.method.entries(self.grounder, tokens, self._latents_of(part))
        return self.grounder.losses(batch, entries)

    def _latents_of(self, part: Sequence[_Sample]) -> Tensor | None:
        if self.latents is None:
            return None
        epoch = len(self.log)
        found = [self.latents[s.task].take([self.tasks[s.task].samples[s.at]], epoch) for s in part]
        return torch.cat(found).to(self.group.device)

    def _require_finite(self, terms: Mapping[str, float], gradient: Tensor) -> None:
        wrong = [name for name, value in terms.items() if not math.isfinite(value)]
        if not wrong and not bool(torch.isfinite(gradient).all()):
            wrong = ["the gradient"]
        if wrong:
            raise DivergedModelError(
                f"{' and '.join(wrong)} of the alignment is no number in epoch {len(self.log)}, "
                f"step {self._step}; lower stage.learning_rate={self.settings.learning_rate}"
            )
