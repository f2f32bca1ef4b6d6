"""Training of one leased task by the grounder's own loss on its expressions."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
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


#: The seed's branch of a joined task, whose expressions are those of several; of a stream's tasks
#: each has its place as its own.
_JOINED = 1


class _Step(NamedTuple):
    parts: Batch
    images: list[Tensor]  # (b, 3, H, W) a micro-batch
    tasks: Sequence[ChosenExpressions]
    latents: Sequence[SplitLatents | None]  # of each of `tasks`
    joined: bool
    epoch: int


class GroundingTraining(TaskTraining):
    """A task's expressions, each with its image and box; a joined one's are those of its tasks."""

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
        handle = self.open_train()
        tasks = [chosen_expressions(part, stage.train_expressions) for part in handle.members]
        require_batch(self.lease.task, sum(map(len, tasks)), stage.batch_size)
        batches = expression_batches(
            tasks,
            batch_size=stage.batch_size,
            micro_batches=self.micro_batches,
            mine=self.slots,
            seed=[self.experiment.seed, _JOINED if handle.parts else self.lease.index, epoch],
        )
        return len(batches), self._steps(tasks, batches[start:], bool(handle.parts), epoch)

    def _steps(
        self,
        tasks: Sequence[ChosenExpressions],
        batches: Sequence[Batch],
        joined: bool,
        epoch: int,
    ) -> Generator[_Step, None, None]:
        latents = [self.latents_of(chosen) for chosen in tasks]
        threads = self.stage.loader_threads
        with closing(batch_images(tasks, batches, self.grounder, threads)) as images:
            for batch in batches:
                yield _Step(batch, [next(images) for _ in batch], tasks, latents, joined, epoch)

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
        """The images' rows in their task's split."""
        samples = [sample for part in batch.parts for sample in part]
        rows = [batch.tasks[s.task].expressions[s.at].row for s in samples]
        if len(batch.tasks) == 1:
            return rows
        names = [batch.tasks[s.task].handle.task for s in samples]
        return [f"{name} {row}" for name, row in zip(names, rows, strict=True)]

    def _losses(self, step: _Step, part: Sequence[Sample], images: Tensor) -> Mapping[str, Tensor]:
        device = self.group.device
        batch = grounding_batch(step.tasks, part, images, self.grounder, device)
        latents = _latents(step, part)
        latents = None if latents is None else latents.to(device)
        tasks = torch.full((len(part),), self.method.current, device=device)
        entries = self.method.entries(self.grounder, batch.tokens, tasks, latents)
        return self.grounder.losses(batch, entries) | self.method.regularisers(self.similarity)


def _latents(step: _Step, part: Sequence[Sample]) -> Tensor | None:
    """The latents (b, L, C, h, w) of a micro-batch, where the method takes any."""
    found = []
    # Fresh noise is denoised in these groups, on whose size its last bits depend.
    for (task, _), samples in groupby(part, lambda s: (s.task, s.at if step.joined else None)):
        latents, chosen = step.latents[task], step.tasks[task]
        if latents is None:
            return None
        found.append(latents.take([chosen.samples[s.at] for s in samples], step.epoch))
    return torch.cat(found)


def require_batch(task: str, expressions: int, batch_size: int) -> None:
    """Raises DataError where a task's training expressions do not fill a batch."""
    if expressions < batch_size:
        raise DataError(
            f"task {task!r} has {expressions} training expressions, fewer than the batch of "
            f"{batch_size}: lower stage.batch_size"
        )
