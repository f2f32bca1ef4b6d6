"""One Ray Train run for the whole stream, watched by the driver."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer

from actors.failures import GROUP_FAILURES, Retries, cause
from actors.handle import (
    NAMESPACE,
    SharedStreams,
    TaskStreamHandle,
    start_task_stream,
    stream_name,
)
from actors.live import arrange
from actors.settings import StreamSettings
from system.config.schema import ExperimentConfig
from system.data.shards.faults import Fault
from system.data.shards.manifest import Manifest
from system.engine.interrupts import own_interrupt_handler
from system.engine.repeating import repeating
from system.engine.worker_group import run_config, scaling_config
from system.errors import PromptideError, QuarantinedError, StorageError
from system.storage.run_directory import RunDirectory
from system.stream.task_source import ConsumerStatus
from system.stream.worker import continual_loop

SECONDS_BETWEEN_LOOKS = 0.5
Watch = Callable[[ConsumerStatus], None]
Learned = Callable[[Sequence[Mapping[str, Any]]], None]


@dataclass(frozen=True)
class LearnedTasks:
    """What a run left in its stream's journal, whichever of its starts did it."""

    tasks: tuple[str, ...]  # all of the stream, those appended on the way too
    committed: list[dict[str, Any]]  # payloads in task order
    access_log: pa.Table
    quarantined: list[Fault]  # rows that were put aside


def run_stream(
    experiment: ExperimentConfig,
    manifest: Manifest,
    tasks: tuple[str, ...],
    watch: Watch,
    learned: Learned | None = None,
    shared: SharedStreams | None = None,
    until: int | None = None,
) -> LearnedTasks:
    """Train and evaluate every task of the stream that is not committed yet.

    `tasks` is the order of the stream, and of a live one its start: it ends once it is closed. Ray
    is connected. `watch` is called twice a second with where the run stands, `learned` with all
    that was committed so far, when it has become more. The stream is one of those `shared`, or has
    an actor of its own; it has stopped when this returns: at its end, or after `until` tasks, from
    where a later call goes on. A worker group that dies, or loses its storage, is started again:
    see `Retries`. Raises the worker's own PromptideError, or StreamFailedError with its traceback.
    """
    settings = StreamSettings.of(experiment, tasks, until)
    if shared is None:
        stream = start_task_stream(stream_name(experiment.run_name), NAMESPACE, settings)
    else:
        stream = shared.stream(settings)
    try:
        return _learn(experiment, manifest, tasks, stream, watch, learned)
    finally:
        # Or the next start in this process could find the actor just before its last handle goes.
        with suppress(RayError):
            stream.stop()


def _learn(
    experiment: ExperimentConfig,
    manifest: Manifest,
    tasks: tuple[str, ...],
    stream: TaskStreamHandle,
    watch: Watch,
    learned: Learned | None,
) -> LearnedTasks:
    directory = RunDirectory.of(experiment)
    if experiment.stream.live:
        arrange(stream, experiment)
    retries = Retries(experiment.cluster.max_failures)
    with _watching(stream, experiment.run_name, watch, learned):
        while True:
            trainer = _trainer(experiment, manifest.fingerprint, tasks, stream)
            try:
                with own_interrupt_handler():
                    trainer.fit()
                break
            except (StorageError, QuarantinedError) as error:  # without workers, the loop's own
                failure: PromptideError = error
            except GROUP_FAILURES as error:
                failure = cause(error, directory.logs.uri)
            retries.wait_after(failure, _finished(stream, experiment.run_name))
    return LearnedTasks(
        tuple(stream.status()["tasks"]),
        stream.committed(experiment.run_name),
        stream.access_log(),
        stream.quarantined(experiment.run_name),
    )


def _finished(stream: TaskStreamHandle, consumer: str) -> int:
    """Tasks committed so far; 0 where the stream itself cannot tell at the moment."""
    try:
        return len(stream.committed(consumer))
    except (PromptideError, RayError):
        return 0


def _trainer(
    experiment: ExperimentConfig,
    benchmark_fingerprint: str,
    tasks: tuple[str, ...],
    stream: TaskStreamHandle,
) -> TorchTrainer:
    return TorchTrainer(
        continual_loop,
        train_loop_config={
            "experiment": experiment.to_dict(),
            "tasks": list(tasks),
            "stream": stream,
            "benchmark_fingerprint": benchmark_fingerprint,
        },
        scaling_config=scaling_config(experiment.cluster),
        run_config=run_config(RunDirectory.of(experiment)),
    )


@contextmanager
def _watching(
    stream: TaskStreamHandle, consumer: str, watch: Watch, learned: Learned | None
) -> Iterator[None]:
    told = 0

    def look() -> None:
        nonlocal told
        status = stream.status()["consumers"].get(consumer)
        if status is None:
            return
        watch(status)
        if learned is not None and status["committed"] > told:
            committed = stream.committed(consumer)
            told = len(committed)
            learned(committed)

    # What goes wrong in a look the worker group meets too, and says.
    with repeating(
        look,
        SECONDS_BETWEEN_LOOKS,
        name="promptide-progress",
        passing=(PromptideError, RayError),
    ):
        yield
    look()  # what happened since the last look
