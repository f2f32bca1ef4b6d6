"""Training of one leased task by the grounder's own loss on its expressions.

A step's batch is cut into S micro-batches. Each one's gradient is computed by one worker and
gathered by itself, and every worker adds all of them in one order: a method has few parameters, so
this costs little, and no sum depends on who computed its parts.

Legend: B global batch, S micro-batches, b = B / S, G trainable parameters, L prompted layers, C
latent channels, h w latent height and width.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from typing_extensions import override

from system.backbones.dual_encoder import Modality
from system.config.schema import ExperimentConfig
from system.data.shards.image_batches import group_of_rows, image_batches, shuffled_by_group
from system.data.shards.manifest import SplitHandle
from system.data.shards.padding import PaddedImages
from system.diff_prompt.prompt_latents import SplitLatents
from system.engine.loader_threads import loader_threads
from system.engine.worker_group import WorkerGroup
from system.grounders.entries import Entries, Reach
from system.grounders.grounder import Grounder, GroundingBatch, level_means
from system.methods.base import TaskBatch
from system.methods.sharing import StreamMethod
from system.objectives.grounding.chosen_expressions import (
    ChosenExpressions,
    chosen_expressions,
    expression_tokens,
)
from system.objectives.grounding.kept_towers import KeptSplit, KeptTowers
from system.objectives.grounding.unread_words import unread_words
from system.objectives.task_training import LeasedTask, TaskTraining

EXPRESSIONS = "expressions"  # what a batch is counted in
#: The latents of a task's training expressions, for a method that needs them.
LatentsOf = Callable[[ChosenExpressions], SplitLatents | None]


class Sample(NamedTuple):
    """One expression of those of several tasks."""

    task: int
    at: int  # in the task's chosen expressions


Batch = list[list[Sample]]  # one worker's micro-batches of a step

#: A joined task's branch of the seed for the order of expressions; others take their place in the
#: stream.
_JOINED = 1


class _Step(NamedTuple):
    parts: Batch
    images: list[PaddedImages]  # (b, 3, H, W) a micro-batch
    tasks: Sequence[ChosenExpressions]
    latents: Sequence[SplitLatents | None]  # of each of `tasks`
    joined: bool
    epoch: int
    kept: Sequence[KeptSplit]  # of each of `tasks`; none where nothing is kept


class GroundingTraining(TaskTraining):
    """A task's expressions, each with its image and box; a joined one's are those of its tasks."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        lease: LeasedTask,
        method: StreamMethod,
        grounder: Grounder,
        group: WorkerGroup,
        similarity: Tensor,
        open_train: Callable[[], SplitHandle],
        show: Callable[[dict[str, Any]], None],
        latents_of: LatentsOf = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
        kept: KeptTowers | None = None,
    ) -> None:
        """`note` takes lines for the worker's log."""
        super().__init__(experiment, lease, method, group, show, grounder.fingerprint)
        self.grounder = grounder
        self.similarity = similarity
        self.open_train = open_train
        self.latents_of = latents_of
        self.note = note
        self.towers = kept
        self._chosen: tuple[SplitHandle, list[ChosenExpressions]] | None = None

    @override
    def batches(self, epoch: int, start: int) -> tuple[int, Generator[_Step, None, None]]:
        handle = self.open_train()
        tasks = self._chosen_of(handle)
        for chosen in tasks:
            if chosen.left_out.count and not epoch:
                self.note(f"expressions: {chosen.left_out}")
        if not epoch:
            for line in unread_words(self.grounder, tasks).notes():
                self.note(line)
        batch_size = self.fit_batch(sum(map(len, tasks)), of=EXPRESSIONS)
        batches = expression_batches(
            tasks,
            batch_size=batch_size,
            micro_batches=self.micro_batches,
            mine=self.slots,
            seed=[self.experiment.seed, _JOINED if handle.parts else self.lease.index, epoch],
        )
        splits = [] if self.towers is None else self.towers.of_all(tasks, self._reach())
        return len(batches), self._steps(tasks, batches[start:], bool(handle.parts), epoch, splits)

    def _reach(self) -> Reach:
        """What of the grounder a step leaves as it is."""
        reach = self.method.reach(self.grounder)
        if self.method.has_loss_terms and reach.image == "regions":
            return replace(reach, image="levels")  # see `watched`
        return reach

    def _chosen_of(self, handle: SplitHandle) -> list[ChosenExpressions]:
        """The expressions that are learned, read from the shards once for all epochs."""
        if self._chosen is None or self._chosen[0] != handle:
            most = self.stage.train_expressions
            self._chosen = handle, [chosen_expressions(part, most) for part in handle.members]
        return self._chosen[1]

    def _steps(
        self,
        tasks: Sequence[ChosenExpressions],
        batches: Sequence[Batch],
        joined: bool,
        epoch: int,
        kept: Sequence[KeptSplit],
    ) -> Generator[_Step, None, None]:
        latents = [self.latents_of(chosen) for chosen in tasks]
        with closing(self._images(tasks, batches, kept)) as images:
            for batch in batches:
                found = [next(images) for _ in batch]
                yield _Step(batch, found, tasks, latents, joined, epoch, kept)

    def _images(
        self,
        tasks: Sequence[ChosenExpressions],
        batches: Sequence[Batch],
        kept: Sequence[KeptSplit],
    ) -> Generator[PaddedImages, None, None]:
        """The images of each micro-batch, which are not read where their outputs are kept."""
        if self.towers is not None and any(split.images is not None for split in kept):
            blanks = (self.towers.blank(len(part)) for batch in batches for part in batch)
            return (blank for blank in blanks)
        return batch_images(tasks, batches, self.grounder, loader_threads(self.stage))

    @override
    def gradients(self, batch: _Step) -> dict[str, Tensor]:
        return self._accumulate(batch, self._on_device(batch), own_terms=True)

    @override
    def task_batch(self, batch: _Step) -> TaskBatch:
        parts = list(self._on_device(batch))
        return TaskBatch(
            parts, lambda: self.collected(lambda: self._accumulate(batch, parts, own_terms=False))
        )

    def _on_device(self, step: _Step) -> Iterator[GroundingBatch]:
        for part, images in zip(step.parts, step.images, strict=True):
            batch = grounding_batch(step.tasks, part, images, self.grounder, self.group.device)
            if self.towers is not None:
                kept = self.towers.outputs([(step.kept[sample.task], sample.at) for sample in part])
                batch = replace(batch, kept=kept)
            yield batch

    def _accumulate(
        self, step: _Step, batches: Iterable[GroundingBatch], *, own_terms: bool
    ) -> dict[str, Tensor]:
        losses = (
            self._losses(step, part, batch, own_terms=own_terms)
            for part, batch in zip(step.parts, batches, strict=True)
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

    def _losses(
        self, step: _Step, part: Sequence[Sample], batch: GroundingBatch, *, own_terms: bool
    ) -> Mapping[str, Tensor]:
        device = self.group.device
        latents = self._latents(step, part)
        tasks = torch.full((len(part),), self.method.current, device=device)
        entries = self.method.entries(self.grounder, batch, tasks, latents)
        features: dict[Modality, Tensor] = {}
        if self.method.has_loss_terms:
            entries = watched(entries, batch, features)
        weight = self.stage.grounding_loss_weight
        losses = {
            name: weight * loss for name, loss in self.grounder.losses(batch, entries).items()
        }
        if not own_terms:
            return losses
        losses |= self.method.regularisers(self.similarity)
        return losses | self.method.loss_terms(batch, features)

    def _latents(self, step: _Step, part: Sequence[Sample]) -> Tensor | None:
        """The latents (b, L, C, h, w) of a micro-batch, where the method takes any."""
        found = []
        # Fresh noise is denoised in these groups, on whose size its last bits depend.
        for (task, _), samples in groupby(part, lambda s: (s.task, s.at if step.joined else None)):
            latents, chosen = step.latents[task], step.tasks[task]
            if latents is None:
                return None
            found.append(latents.take([chosen.samples[s.at] for s in samples], step.epoch))
        return torch.cat(found).to(self.group.device)


def expression_batches(
    tasks: Sequence[ChosenExpressions],
    *,
    batch_size: int,
    micro_batches: int,
    mine: range,
    seed: Sequence[int],
) -> list[Batch]:
    """The micro-batches `mine` of each step of an epoch over all tasks' expressions, shuffled.

    Full batches alone: the remainder is dropped; which expressions are dropped changes with `seed`.
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
) -> Generator[PaddedImages, None, None]:
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
        multiple=grounder.side_multiple,
    )


def grounding_batch(
    tasks: Sequence[ChosenExpressions],
    part: Sequence[Sample],
    images: PaddedImages,
    grounder: Grounder,
    device: torch.device,
) -> GroundingBatch:
    """A micro-batch with its boxes on a device."""
    expressions = [tasks[s.task].expressions[s.at] for s in part]
    tokens = expression_tokens(grounder, expressions).to(device)
    boxes = [
        grounder.learned_boxes(torch.tensor(e.boxes), e.width, e.height).to(device)
        for e in expressions
    ]
    return GroundingBatch(images.pixels.to(device), tokens, boxes, images.sizes)


def gathered_gradient(
    parameters: Mapping[str, nn.Parameter],
    parts: Iterable[Mapping[str, Tensor]],
    group: WorkerGroup,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient (G,) of the global batch's loss, and its terms ().

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
    return gradient, dict(zip(names, values.unbind(), strict=True))


def put_gradient(parameters: Mapping[str, nn.Parameter], gradient: Tensor) -> None:
    """Give each parameter its part of a gradient (G,)."""
    start = 0
    for parameter in parameters.values():
        size = parameter.numel()
        parameter.grad = gradient[start : start + size].view_as(parameter)
        start += size


def watched(entries: Entries, batch: GroundingBatch, features: dict[Modality, Tensor]) -> Entries:
    """The same entries, which leave in `features` what leaves the towers under them.

    The means of the image's levels and of the expression's tokens, to unit length, (B, P) each.
    """
    levels: dict[int, Tensor] = {}
    tokens = batch.tokens

    def adapt_level(index: int, level: Tensor) -> Tensor:
        level = level if entries.adapt_level is None else entries.adapt_level(index, level)
        levels[index] = level
        features["vision"] = level_means([levels[at] for at in sorted(levels)], batch.covered)
        return level

    def adapt_text(hidden: Tensor) -> Tensor:
        hidden = hidden if entries.adapt_text is None else entries.adapt_text(hidden)
        weights = tokens.mask[..., None].to(hidden.dtype)
        features["text"] = normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
        return hidden

    return replace(entries, adapt_level=adapt_level, adapt_text=adapt_text)
