"""One Ray Train run for the whole stream, watched by the driver."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from actors.task_stream import TaskStreamHandle, find_task_stream, start_task_stream
from system.config import ExperimentConfig
from system.data.manifest import Manifest
from system.errors import PromptideError
from system.stages.continual import continual_loop
from system.stages.task_source import ConsumerStatus
from system.storage.run_directory import RunDirectory

SECONDS_BETWEEN_LOOKS = 0.5
NAMESPACE = "promptide"
Watch = Callable[[ConsumerStatus], None]
Learned = Callable[[Sequence[Mapping[str, Any]]], None]


def run_stream(
    experiment: ExperimentConfig,
    manifest: Manifest,
    tasks: tuple[str, ...],
    watch: Watch,
    learned: Learned | None = None,
) -> TaskStreamHandle:
    """Train and evaluate every task of the stream that is not committed yet.

    Ray is connected. `watch` is called twice a second with where the run stands, `learned` with all
    that was committed so far, when it has become more. Returns the stream, whose journal holds all
    that was committed. Raises the worker's own PromptideError, or what Ray Train ended with.
    """
    directory = RunDirectory.of(experiment)
    stream = start_task_stream(
        name=_stream_name(experiment.run_name),
        namespace=NAMESPACE,
        journal_uri=directory.stream.uri,
        manifest_root=experiment.benchmark_folder().uri,
        tasks=list(tasks),
        evaluation_split=experiment.evaluation.split,
    )
    cluster = experiment.cluster
    trainer = TorchTrainer(
        continual_loop,
        train_loop_config={
            "experiment": experiment.to_dict(),
            "tasks": list(tasks),
            "stream": stream,
            "benchmark_fingerprint": manifest.fingerprint,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            # A later start finds the run by this name and goes on from its last checkpoint.
            name="checkpoints",
            storage_path=directory.folder.uri,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    with _watching(stream, experiment.run_name, watch, learned):
        try:
            trainer.fit()
        except SystemExit as error:
            # Ray Train's own handler of Ctrl-C aborts the workers and exits.
            raise KeyboardInterrupt from error
        except ray.train.TrainingFailedError as error:
            raise _cause(error, directory.logs.uri) from error
    return stream


def close_stream(run_name: str) -> None:
    """End a run of this cluster soon, in the middle of a task if it must be."""
    stream = find_task_stream(_stream_name(run_name), NAMESPACE)
    if stream is not None:
        stream.close()


def _stream_name(run_name: str) -> str:
    return f"task-stream-{run_name}"


@contextmanager
def _watching(
    stream: TaskStreamHandle, consumer: str, watch: Watch, learned: Learned | None
) -> Iterator[None]:
    stop = threading.Event()
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

    def keep_looking() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            look()

    thread = threading.Thread(target=keep_looking, name="promptide-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    look()  # what happened since the last look


class StreamFailedError(PromptideError):
    """A worker failed in a way that no config mends; the message holds its traceback."""


def _cause(error: Exception, logs: str) -> PromptideError:
    """The user's error inside what Ray Train wraps around it, or the first rank's traceback."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    pending: list[BaseException | None] = list(failures.values())
    seen: set[int] = set()
    while pending:
        inner = pending.pop()
        if inner is None or id(inner) in seen:
            continue
        if isinstance(inner, PromptideError):
            return inner
        seen.add(id(inner))
        pending += [inner.__cause__, getattr(inner, "cause", None)]
    rank, first = min(failures.items(), default=(0, error))
    return StreamFailedError(
        f"rank {rank} failed; all ranks' logs are in {logs}. What it ended with:\n{first}"
    )
