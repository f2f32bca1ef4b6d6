"""The epoch loop: of a stream's tasks and of models alike, with resumes that change no bit.

A training (`Training`) says what is learned from which batches; `EpochLoop` runs its steps, looks
at loss and gradient every `check_every` of them, and writes a checkpoint after each epoch and every
`checkpoint_steps` steps inside one, always behind a look: what diverged is never kept. A look comes
before the step whose gradient it sees: where there is one at each step, no parameter is spoiled.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from system.engine.checkpoint import FILE, Checkpoint, Position
from system.engine.optimisation import optimiser_tensors, restore_optimiser
from system.engine.step_watch import StepWatch, largest
from system.engine.training import Progress, Training, check_every_on
from system.engine.whereabouts import here
from system.engine.worker_log import RankLog
from system.errors import BrokenStorageError, PromptideError
from system.methods.sharing import check_state
from system.storage.adapters import prefixed, under
from system.storage.files import Folder

SECONDS_BETWEEN_PROGRESS = 0.5
LOG = logging.getLogger("promptide")


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
        self._every = training.check_every or check_every_on(training.group.device)
        self._watch = StepWatch(training.largest_loss)
        self._sums: dict[str, float] = {}  # this worker's, of the running epoch's steps up to
        self._looked = 0  # this one
        self._kept = Position()  # of the last checkpoint
        self._shown = 0.0

    def run(self) -> list[dict[str, Any]]:
        """Train all epochs that are left; the log rows of all.

        Raises DivergedError, ConfigError for a checkpoint of another training, and StorageError.
        """
        with here().training():
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
        training, found = self.training, self._found()
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
        self._looked = self.position.step
        if self.log is not None:
            self.log.add(f"{training.subject}: going on after {_described(self.position)}")

    def _found(self) -> Checkpoint | None:
        """The folder's checkpoint; a damaged one is dropped with a line: it can be made again.

        Rank 0 decides for all, or they would go on from different places.
        """
        found, fault = None, None
        if self.group.leads:
            try:
                found = Checkpoint.read(self.folder)
            except BrokenStorageError as error:
                fault = f"{error}; {self.training.subject} is learned from its start"
                self.folder.delete(FILE)
        fault = self.group.broadcast(fault)
        if fault is not None:
            (LOG.warning if self.log is None else self.log.add)(fault)
            return None
        return found if self.group.leads else Checkpoint.read(self.folder)

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
        self._sums, self._looked = {}, 0
        return row

    def save(self) -> None:
        """Replace the checkpoint; all ranks call it, and rank 0 writes."""
        with here().doing("checkpoint"):
            self._save()

    def _save(self) -> None:
        training, at = self.training, self.position
        size = float(largest(list(training.parameters.values())))
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
        here().at(at.epoch, at.step)
        training.set_rate(at.epoch, at.step, steps)
        training.optimiser.zero_grad(set_to_none=True)
        terms = training.gradients(batch)
        gradients = [p.grad for p in training.parameters.values() if p.grad is not None]
        self._watch.add(at.step, terms, gradients, training.images_of(batch))
        if self._due(at.step + 1, steps):
            self._look()
        if training.gradient_norm is not None:
            nn.utils.clip_grad_norm_(training.parameters.values(), training.gradient_norm)
        training.optimiser.step()
        at.step += 1
        training.stepped(at.epoch * steps + at.step)

    def _due(self, step: int, steps: int) -> bool:
        """Whether to look before `step` steps of the epoch are done: also ahead of a checkpoint."""
        checkpoint = self.training.checkpoint_steps
        return (
            step % self._every == 0
            or step == steps
            or (checkpoint is not None and step % checkpoint == 0)
        )

    def _look(self) -> None:
        """Add the steps since the last look to the sums; stop if one of them diverged.

        Gradients are the same on all ranks, so all of them stop, and none waits for another.
        """
        rows, fault = self._watch.look()
        if fault is not None:
            raise self._diverged(*fault)
        for row in rows:
            for name, value in row.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._looked += len(rows)

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
        early = now - self._shown < SECONDS_BETWEEN_PROGRESS and at.step < steps
        if early or not self._looked or not self.group.leads:
            return
        self._shown = now
        loss = self.training.loss(self._sums) / self._looked  # what a look found: it reads nothing
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
