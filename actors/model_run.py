"""A run that trains the model of a stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from rich.console import Console
from typing_extensions import override

from actors.drive import Place, Run, Watch
from actors.pulse import Pulse, PulseBoard, Pulses
from system.engine.checkpoint import log_so_far
from system.engine.model_stage import ModelExperiment, show_nothing, stage_of
from system.loggers.points import ModelCurves
from system.loggers.run_loggers import check_loggers
from system.storage.run_directory import METRICS
from system.storage.writer_lock import sole_writer

SECONDS_BETWEEN_POSTS = 0.5
Standing = tuple[str, int, int, str]  # as `Show` in system/engine/model_stage.py takes it


class ModelRun(Run):
    """Trains a stage's model, unless it is there from the same settings and data."""

    experiment: ModelExperiment
    seconds_between_reads = 10.0  # of the log, which is on storage

    def __init__(self, experiment: ModelExperiment) -> None:
        self.experiment = experiment
        self.stage = stage_of(experiment)
        self.curves = ModelCurves(self.stage.logged)
        #: Of the training alone; None for a model that was there.
        self.seconds: float | None = None
        self._board: ProgressBoard | None = None
        self._lines: list[str] = []

    @override
    def check(self) -> None:
        check_loggers(self.experiment)
        self.finished = self.stage.finished(self.experiment)

    @override
    def before(self) -> Sequence[Run]:
        return [ModelRun(earlier) for earlier in self.stage.before(self.experiment)]

    @override
    @contextmanager
    def sole_maker(self, at: Place) -> Iterator[bool]:
        """Wait for whoever makes the same model now, and keep others waiting inside the block.

        A maker that died is no longer waited for.
        """
        place = self.stage.place(self.experiment)

        def waiting(who: str) -> None:
            at.tell(f"waiting for {who}, which trains the same model: {place.uri}")

        with sole_writer(place, at.on_lost, waiting=waiting):
            yield self.stage.finished(self.experiment)

    @override
    @contextmanager
    def opened(self) -> Iterator[None]:
        self._board = ProgressBoard.start()
        started = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - started

    @override
    def loop(self) -> tuple[Callable[[dict[str, Any]], None], dict[str, Any]]:
        show = self._board or show_nothing
        return self.stage.loop, {"experiment": self.experiment.to_dict(), "show": show}

    @override
    def pulse_board(self, start: str) -> PulseBoard | None:
        return None if self._board is None else PulseBoard(self._board.actor, start)

    @override
    @contextmanager
    def progress(self, console: Console) -> Iterator[Watch]:
        from system.report.terminal.step_progress import ModelProgress

        with ModelProgress(console) as progress:
            yield lambda standing: progress.show(*standing)

    @override
    def look(self, watch: Watch) -> None:
        standing = self._board and self._board.standing()
        if standing is not None:
            watch(standing)

    @override
    def learned(self) -> Sequence[Mapping[str, Any]]:
        return log_so_far(self.directory.folder)

    @override
    def finish(self) -> Mapping[str, Any]:
        self.stage.report(self.experiment, self._lines.append)
        metrics: Mapping[str, Any] = self.directory.folder.read_json(METRICS)
        return metrics

    @override
    def report(self, console: Console) -> None:
        if self.finished:
            console.print("the model is there already, made from the same settings and data")
        for line in self._lines:
            console.print(line, highlight=False, soft_wrap=True)


class _Board:
    def __init__(self) -> None:
        self._standing: Standing | None = None
        self._pulses = Pulses()

    def put(self, standing: Standing) -> None:
        """Replace what was posted last."""
        self._standing = standing

    def get(self) -> Standing | None:
        """The values that were posted last."""
        return self._standing

    def pulse(self, start: str, pulse: Pulse) -> None:
        """Keep the pulse of a worker."""
        self._pulses.put(start, pulse)

    def pulses(self, start: str) -> list[Pulse]:
        """The last pulse of each worker of a group."""
        return self._pulses.of(start)

    def forget_pulses(self, start: str) -> None:
        """Keep no pulse of a group that is over."""
        self._pulses.forget(start)


# It may lose what was posted: the next step posts again.
_BoardActor = ray.remote(num_cpus=0, max_restarts=-1)(_Board)


@dataclass
class ProgressBoard:
    """A `Show` that may be pickled and sent to workers; the actor lives as long as the first."""

    actor: ActorHandle[_Board]
    _posted: float = field(default=0.0, init=False)

    @classmethod
    def start(cls) -> ProgressBoard:
        """A board of this cluster, on which nothing stands yet."""
        return cls(cast("ActorHandle[_Board]", _BoardActor.remote()))

    def __call__(self, phase: str, done: int, total: int, values: str) -> None:
        """Post where the work stands, unless it was posted a moment ago; never waits."""
        now = time.monotonic()
        if done < total and now - self._posted < SECONDS_BETWEEN_POSTS:
            return
        self._posted = now
        self.actor.put.remote((phase, done, total, values))

    def standing(self) -> Standing | None:
        """What was posted last, None while nothing was."""
        return cast("Standing | None", ray.get(self.actor.get.remote()))
