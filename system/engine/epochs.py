"""The epoch loop: of a stream's tasks and of models alike, with resumes that change no bit.

A training (`Training`) says what is learned from which batches; `EpochLoop` runs its steps, stops
before a step that would spoil the parameters, and writes a checkpoint after each epoch and every
`checkpoint_steps` steps inside one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from system.engine.checkpoint import Checkpoint, Position
from system.engine.optimisation import optimiser_tensors, restore_optimiser
from system.engine.training import Progress, Training
from system.engine.worker_log import RankLog
from system.errors import PromptideError
from system.methods.sharing import check_state
from system.storage.adapters import prefixed, under
from system.storage.files import Folder

SECONDS_BETWEEN_PROGRESS = 0.5
NAMED_IMAGES = 8  # of a batch that cannot be learned


class DivergedError(PromptideError):
    """The loss, its gradient or a parameter is no longer a number, or out of all bounds."""


class EpochLoop:
    """The epochs of one training, from the last checkpoint in a run directory on."""

    def __init__(self, training: Training, folder: Folder, log: RankLog | None = None) -> None:
        self.training = training
        self.group = training.group
        self.folder = folder
        self.log = log
        self.position = Position()
        self._sums: dict[str, float] = {}  # this worker's, of the running epoch
        self._kept = Position()  # of the last checkpoint
        self._shown = 0.0

    def run(self) -> list[dict[str, Any]]:
        """Train all epochs that are left; the log rows of all.

        Raises DivergedError, ConfigError for a checkpoint of another training, and StorageError.
        """
        self.restore()
        self.training.begin()
        while self.position.epoch < self.training.epochs:
            row = self.epoch()
            self.save()
            if self.log is not None:
                self.log.add(f"{self.training.subject}: {row}")
            self.group.report(row)
        return self.position.log

    def restore(self) -> None:
        """Take up the folder's checkpoint if it is of this training."""
        training, found = self.training, Checkpoint.read(self.folder)
        if found is None:
            return
        if found.origin != training.origin:
            training.require_own(found.origin)
            return
        state = training.state()
        saved = {name: found.tensors[name] for name in found.tensors if name in state}
        check_state(saved, {name: tuple(tensor.shape) for name, tensor in state.items()})
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved[name])
        restore_optimiser(training.optimiser, under("optimiser", found.tensors))
        self.position = self._kept = found.position
        self._sums = {name: self._own(sums) for name, sums in found.position.sums.items()}
        if self.log is not None:
            self.log.add(f"{training.subject}: going on after {_described(self.position)}")

    def epoch(self) -> dict[str, Any]:
        """Train the running epoch to its end; its log row."""
        at, training = self.position, self.training
        first, started = at.step, time.perf_counter()
        steps, batches = training.batches(at.epoch, first)
        with closing(batches):
            for batch in batches:
                self._step(batch, steps)
                self._show(steps, (at.step - first) / (time.perf_counter() - started))
                every = training.checkpoint_steps
                if every and at.step % every == 0 and at.step < steps:
                    self.save()
        rate = (steps - first) / (time.perf_counter() - started)
        terms = {name: total / steps for name, total in self._total().items()}
        row = training.row(at.epoch, steps, terms, rate)
        self.position = Position(at.epoch + 1, log=[*at.log, row])
        self._sums = {}
        return row

    def save(self) -> None:
        """Replace the checkpoint; all ranks call it, and rank 0 writes."""
        training, at = self.training, self.position
        size = _largest(list(training.parameters.values()))
        if not math.isfinite(size):  # the last step overflowed; the checkpoint before it is sound
            raise self._diverged("a parameter", size, "the step before its checkpoint")
        gathered = self._gathered()
        sums = {name: gathered[:, i].tolist() for i, name in enumerate(self._sums)}
        self._kept = Position(at.epoch, at.step, sums, at.log)
        if self.group.leads:
            moments = optimiser_tensors(training.optimiser)
            tensors = training.state() | prefixed("optimiser", moments)
            Checkpoint(dict(training.origin), self._kept, tensors).write(self.folder)

    def _step(self, batch: Any, steps: int) -> None:
        training, at = self.training, self.position
        training.set_rate(at.epoch, at.step, steps)
        training.optimiser.zero_grad(set_to_none=True)
        terms = training.gradients(batch)
        self._check(terms, batch)
        if training.gradient_norm is not None:
            nn.utils.clip_grad_norm_(training.parameters.values(), training.gradient_norm)
        training.optimiser.step()
        at.step += 1
        training.stepped(at.epoch * steps + at.step)
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _check(self, terms: Mapping[str, float], batch: Any) -> None:
        """Stop before the step that would spoil the parameters.

        Gradients are the same on all ranks, so all of them stop, and none waits for another.
        """
        where = f"step {self.position.step}"
        if images := self.training.images_of(batch):
            named = ", ".join(map(str, images[:NAMED_IMAGES]))
            where += f"; its images here: {named}{', ...' * (len(images) > NAMED_IMAGES)}"
        for name, value in terms.items():
            if not (math.isfinite(value) and abs(value) < self.training.largest_loss):
                what = "the loss" if name == "loss" else f"the {name} loss"
                raise self._diverged(what, value, where)
        gradients = [p.grad for p in self.training.parameters.values() if p.grad is not None]
        norm = _largest(gradients)
        if not math.isfinite(norm):
            raise self._diverged("the gradient", norm, where)

    def _diverged(self, what: str, value: float, where: str) -> DivergedError:
        training, kept = self.training, self._kept
        state = "its start"
        if kept.epoch or kept.step:
            state = f"its state after {_described(kept)} of {training.epochs}"
        return DivergedError(
            f"{what} of {training.subject} is {value:g} at epoch {self.position.epoch}, {where}. "
            f"Kept: {training.kept(state)}. {training.remedy}"
        )

    def _show(self, steps: int, steps_per_second: float) -> None:
        now, at = time.perf_counter(), self.position
        if not self.group.leads or (
            now - self._shown < SECONDS_BETWEEN_PROGRESS and at.step < steps
        ):
            return
        self._shown = now
        loss = self.training.loss(self._sums) / at.step
        self.training.show(
            Progress(at.epoch, self.training.epochs, at.step, steps, loss, steps_per_second)
        )

    def _gathered(self) -> Tensor:
        """The running epoch's sums of all workers (W, terms)."""
        mine = torch.tensor([list(self._sums.values())], dtype=torch.float64)
        return self.group.gather_equal(mine.to(self.group.device)).cpu()

    def _total(self) -> dict[str, float]:
        """The global batches' loss terms, added over the epoch."""
        if not self.training.local_terms:
            return self._sums
        means = self._gathered().mean(dim=0).tolist()
        return dict(zip(self._sums, means, strict=True))

    def _own(self, sums: Sequence[float]) -> float:
        """This worker's part of saved sums; of as many other workers, their mean."""
        if len(sums) == self.group.size:
            return sums[self.group.rank]
        return sum(sums) / len(sums)


def _described(position: Position) -> str:
    steps = f" and {position.step} steps" if position.step else ""
    return f"{position.epoch} epochs{steps}"


def _largest(tensors: Sequence[Tensor]) -> float:
    """The largest magnitude in any of the tensors, NaN if there is one."""
    if not tensors:
        return 0.0
    return float(
        torch.stack([t.detach().abs().amax().float() for t in tensors if t.numel()]).amax()
    )
