"""A run that learns a stream of tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.exceptions import RayError
from rich.console import Console
from typing_extensions import override

from actors.drive import Run, Watch
from actors.handle import NAMESPACE, SharedStreams, start_task_stream, stream_name
from actors.live import arrange, reachable
from actors.model_run import ModelRun
from actors.pulse import PulseBoard
from actors.settings import StreamSettings
from system.config.schema import ExperimentConfig
from system.data.shards.faults import Fault
from system.engine.provenance import data_provenance
from system.errors import ConfigError
from system.loggers.points import StreamCurves
from system.objectives.objective import OBJECTIVES
from system.results.accuracy_matrix import AccuracyMatrix
from system.stream.preflight import Checked, check_experiment
from system.stream.run_results import finish_run, write_so_far
from system.stream.task_source import StreamHaltedError, TaskSource
from system.stream.worker import continual_loop

#: Tables of a live stream are written again once it has learned this share more tasks.
NOTED_AFTER = 0.05


@dataclass(frozen=True)
class LearnedTasks:
    """Results that a run left in its stream's journal, whichever of its starts did it."""

    tasks: tuple[str, ...]  # all of the stream, those appended on the way too
    committed: list[dict[str, Any]]  # payloads in task order
    access_log: pa.Table
    quarantined: list[Fault]  # rows that were skipped

    @classmethod
    def of(cls, stream: TaskSource, consumer: str) -> LearnedTasks:
        """The results of a consumer of the stream."""
        return cls(
            tuple(stream.status()["tasks"]),
            stream.committed(consumer),
            stream.access_log(),
            stream.quarantined(consumer),
        )


class StreamRun(Run):
    """Trains and evaluates every task of the stream that is not committed yet.

    The stream is one of those `shared`, or has an actor of its own; it stops when the run does: at
    its end, or after `until` tasks, from where a later run goes on.
    """

    experiment: ExperimentConfig
    checked: Checked
    stream: TaskSource
    left: LearnedTasks

    def __init__(
        self,
        experiment: ExperimentConfig,
        shared: SharedStreams | None = None,
        until: int | None = None,
    ) -> None:
        self.experiment = experiment
        self.shared = shared
        self.until = until
        self.curves = StreamCurves(experiment.stage.epochs)
        self.objective = OBJECTIVES.get(experiment.stage.objective)
        self._begun = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._results: tuple[dict[str, Any], AccuracyMatrix] | None = None
        self._noted = 0  # how many tasks the tables of a live stream hold
        self._committed: list[dict[str, Any]] = []
        self._actor: Any = None  # of the stream, while it is open

    @override
    def check(self) -> None:
        self.checked = check_experiment(self.experiment)
        self.notes = self.checked.notes

    @override
    def before(self) -> Sequence[Run]:
        return [ModelRun(earlier) for earlier in self.objective.before(self.experiment)]

    @override
    @contextmanager
    def opened(self) -> Iterator[None]:
        ready = time.perf_counter()
        self.directory.require_journal()
        experiment = self.experiment
        settings = StreamSettings.of(experiment, self.checked.tasks, self.until)
        with reachable(self.directory.folder) if self.shared is None else nullcontext():
            if self.shared is None:
                name = stream_name(experiment.run_name)
                stream = start_task_stream(name, NAMESPACE, settings)
            else:
                stream = self.shared.stream(settings)
            self.stream, self._actor = stream, stream.actor
            try:
                if experiment.stream.live:
                    arrange(stream, experiment)
                yield
                self.left = LearnedTasks.of(stream, experiment.run_name)
            finally:
                # Or the next start in this process could find the actor just before its last
                # handle goes.
                with suppress(RayError):
                    stream.stop()
        self._seconds = {"start": ready - self._begun, "stream": time.perf_counter() - ready}

    @override
    def loop(self) -> tuple[Callable[[dict[str, Any]], None], dict[str, Any]]:
        return continual_loop, {
            "experiment": self.experiment.to_dict(),
            "tasks": list(self.checked.tasks),
            "stream": self.stream,
            "benchmark_fingerprint": self.checked.manifest.fingerprint,
        }

    @override
    def pulse_board(self, start: str) -> PulseBoard | None:
        return None if self._actor is None else PulseBoard(self._actor, start)

    @override
    @contextmanager
    def progress(self, console: Console) -> Iterator[Watch]:
        from system.report.terminal.stream_progress import StreamProgress

        with StreamProgress(console) as progress:
            yield progress.update

    @override
    def look(self, watch: Watch) -> None:
        status = self.stream.status()["consumers"].get(self.experiment.run_name)
        if status is not None:
            watch(status)

    @override
    def learned(self) -> Sequence[Mapping[str, Any]]:
        status = self.stream.status()["consumers"].get(self.experiment.run_name)
        if status is not None and status["committed"] > len(self._committed):
            # Only the new ones: all of them after each task would be the square of the tasks.
            known = len(self._committed)
            self._committed += self.stream.committed(self.experiment.run_name, known)
        return self._committed

    @override
    def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        # The tables are written whole, so not after each of many tasks.
        if self.experiment.stream.live and len(rows) >= self._noted * (1 + NOTED_AFTER):
            self._note_all(rows)

    def _note_all(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_so_far(self.experiment, rows)
        self._noted = len(rows)

    @override
    def finish(self) -> Mapping[str, Any] | None:
        left = self.left
        if self.until is not None and len(left.committed) < self.until:
            raise StreamHaltedError("halted between two tasks")
        if not left.committed:
            raise ConfigError("the stream was closed without a task; start another run_name")
        if self.until is not None and self.until < len(self.checked.tasks):
            if len(left.committed) > self._noted and self.experiment.stream.live:
                self._note_all(left.committed)
            return None
        self._results = finish_run(
            self.experiment,
            data_provenance(self.checked.manifest),
            left.tasks,
            left.committed,
            left.access_log,
            self._seconds,
            left.quarantined,
        )
        return self._results[0]

    @override
    def report(self, console: Console) -> None:
        from system.report.pages.run_page import write_report
        from system.report.terminal.tables import print_final_table

        folder = self.directory.folder
        page = write_report(folder.uri)
        if self._results is not None:
            metrics, matrix = self._results
            print_final_table(metrics, matrix, console)
            console.print(f"run directory: {folder.uri}", soft_wrap=True)
        console.print(f"report: {page}", soft_wrap=True)
