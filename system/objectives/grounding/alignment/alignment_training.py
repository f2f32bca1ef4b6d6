"""Training of a method on a frozen grounder, the same to the bit for any number of workers.

How a step's gradient comes about: see `grounding_steps`.

Legend: B global batch, S micro-batches, b = B / S, G trained numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from system.config.schema import OptimiserConfig
from system.diff_prompt.prompt_latents import SplitLatents
from system.engine.epochs import DivergedError, trained
from system.engine.model_stage import Show
from system.engine.optimisation import build_optimiser
from system.engine.worker_group import WorkerGroup
from system.grounders.grounder import Grounder
from system.methods.base import Method
from system.objectives.grounding.alignment.alignment_checkpoint import (
    ModelCheckpoint,
    restore_training,
    training_state,
)
from system.objectives.grounding.alignment.alignment_plan import AlignmentSettings
from system.objectives.grounding.grounding_steps import (
    Batch,
    Sample,
    batch_images,
    expression_batches,
    gathered_gradient,
    grounding_batch,
    put_gradient,
)
from system.objectives.grounding.rec_scoring import ChosenExpressions
from system.storage.adapters import prefixed, under

_ORDER = 1  # branch of the seed
_POSITION = "position"  # steps done in the running epoch, and the seconds of all so far
_SUMS = "sums"  # of the loss terms over these steps


class AlignmentTraining:
    """A method, its optimiser, and the epochs over the expressions of all tasks."""

    def __init__(
        self,
        settings: AlignmentSettings,
        grounder: Grounder,
        method: Method,
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

    @property
    def steps(self) -> int:
        """Steps of an epoch: full batches; the other expressions sit it out, others each epoch."""
        return sum(map(len, self.tasks)) // self.settings.batch_size

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
        images = batch_images(self.tasks, batches, self.grounder, self.settings.loader_threads)
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

    def _batches(self, epoch: int) -> list[Batch]:
        """This worker's micro-batches of each step of an epoch."""
        settings = self.settings
        return expression_batches(
            self.tasks,
            batch_size=settings.batch_size,
            micro_batches=settings.micro_batches,
            mine=self.group.share(settings.micro_batches),
            seed=[self.seed, _ORDER, epoch],
        )

    def _train(self, batch: Batch, images: Iterator[Tensor]) -> None:
        """One step: the gradients of all micro-batches, added in their order, and an update."""
        losses = (self._losses(part, next(images)) for part in batch)
        gradient, terms = gathered_gradient(self.parameters, losses, self.group)
        self._require_finite(terms, gradient)
        put_gradient(self.parameters, gradient)
        self.optimiser.step()
        self._step += 1
        for name, value in (terms | {"loss": sum(terms.values())}).items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        done, total_steps = (
            len(self.log) * self.steps + self._step,
            self.settings.epochs * self.steps,
        )
        figures = f"loss {self._sums['loss'] / self._step:.4f}"
        self.show("alignment", done, total_steps, figures)

    def _losses(self, part: Sequence[Sample], images: Tensor) -> Mapping[str, Tensor]:
        """The grounder's loss terms (b,) of one micro-batch, and the method's own ()."""
        batch = grounding_batch(self.tasks, part, images, self.grounder, self.group.device)
        entries = self.method.entries(self.grounder, batch.tokens, self._latents_of(part))
        return self.grounder.losses(batch, entries) | self.method.regularisers()

    def _latents_of(self, part: Sequence[Sample]) -> Tensor | None:
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
            raise DivergedError(
                f"{' and '.join(wrong)} of the alignment is no number in epoch {len(self.log)}, "
                f"step {self._step}; lower stage.learning_rate={self.settings.learning_rate}"
            )
