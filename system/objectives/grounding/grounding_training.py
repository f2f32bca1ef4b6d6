"""Training of one leased task by the grounder's own loss on its expressions."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from system.config.schema import ExperimentConfig
from system.data.shards.manifest import SplitHandle
from system.diff_prompt.prompt_latents import SplitLatents
from system.engine.worker_group import WorkerGroup
from system.errors import DataError
from system.grounders.grounder import Grounder
from system.methods.sharing import StreamMethod
from system.objectives.grounding.grounding_steps import (
    Batch,
    Sample,
    batch_images,
    expression_batches,
    gathered_gradient,
    grounding_batch,
    put_gradient,
)
from system.objectives.grounding.rec_scoring import ChosenExpressions, chosen_expressions
from system.objectives.task_training import TaskTraining
from system.stream.task_source import Lease

#: The latents of a task's training expressions, for a method that needs them.
LatentsOf = Callable[[ChosenExpressions], SplitLatents | None]


class _Step(NamedTuple):
    parts: Batch
    images: list[Tensor]  # (b, 3, H, W) a micro-batch
    chosen: ChosenExpressions
    latents: SplitLatents | None
    epoch: int


class GroundingTraining(TaskTraining):
    """A task's expressions, each with its image and box."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        lease: Lease,
        method: StreamMethod,
        grounder: Grounder,
        group: WorkerGroup,
        similarity: Tensor,
        open_train: Callable[[], SplitHandle],
        show: Callable[[dict[str, Any]], None],
        latents_of: LatentsOf = lambda _: None,
    ) -> None:
        super().__init__(experiment, lease, method, group, show, grounder.fingerprint)
        self.method = method
        self.grounder = grounder
        self.similarity = similarity
        self.open_train = open_train
        self.latents_of = latents_of

    @override
    def batches(self, epoch: int, start: int) -> tuple[int, Generator[_Step, None, None]]:
        stage = self.stage
        chosen = chosen_expressions(self.open_train(), stage.train_expressions)
        require_batch(self.lease.task, len(chosen), stage.batch_size)
        batches = expression_batches(
            [chosen],
            batch_size=stage.batch_size,
            micro_batches=self.micro_batches,
            mine=self.slots,
            seed=[self.experiment.seed, self.lease.index, epoch],
        )
        return len(batches), self._steps(chosen, batches[start:], epoch)

    def _steps(
        self, chosen: ChosenExpressions, batches: Sequence[Batch], epoch: int
    ) -> Generator[_Step, None, None]:
        latents = self.latents_of(chosen)
        threads = self.stage.loader_threads
        with closing(batch_images([chosen], batches, self.grounder, threads)) as images:
            for batch in batches:
                yield _Step(batch, [next(images) for _ in batch], chosen, latents, epoch)

    @override
    def gradients(self, batch: _Step) -> dict[str, float]:
        losses = (
            self._losses(batch, part, images)
            for part, images in zip(batch.parts, batch.images, strict=True)
        )
        gradient, terms = gathered_gradient(self.parameters, losses, self.group)
        put_gradient(self.parameters, gradient)
        return terms

    @override
    def images_of(self, batch: _Step) -> Sequence[object]:
        return [batch.chosen.expressions[s.at].row for part in batch.parts for s in part]

    def _losses(self, step: _Step, part: Sequence[Sample], images: Tensor) -> Mapping[str, Tensor]:
        device = self.group.device
        batch = grounding_batch([step.chosen], part, images, self.grounder, device)
        latents = None
        if step.latents is not None:
            samples = [step.chosen.samples[s.at] for s in part]
            latents = step.latents.take(samples, step.epoch).to(device)
        tasks = torch.full((len(part),), self.method.current, device=device)
        entries = self.method.entries(self.grounder, batch.tokens, tasks, latents)
        return self.grounder.losses(batch, entries) | self.method.regularisers(self.similarity)


def require_batch(task: str, expressions: int, batch_size: int) -> None:
    """Raises DataError where a task's training expressions do not fill a batch."""
    if expressions < batch_size:
        raise DataError(
            f"task {task!r} has {expressions} training expressions, fewer than the batch of "
            f"{batch_size}: lower stage.batch_size"
        )
