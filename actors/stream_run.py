"""One Ray Train run for the whole stream, watched by the driver."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray.train
from ray.train.torch import TorchTrainer

from actors.task_stream import TaskStreamHandle, start_task_stream
from system.config import ExperimentConfig
from system.data.manifest import Manifest
from system.errors import PromptideError
from system.stages.continual import continual_loop
from system.stages.task_source import ConsumerStatus
from system.storage.run_directory import RunDirectory

SECONDS_BETWEEN_LOOKS = 0.5


def run_stream(
    experiment: ExperimentConfig,
    manifest: Manifest,
    tasks: tuple[str, ...],
    watch: Callable[[ConsumerStatus], None],
) -> TaskStreamHandle:
    """Train and evaluate every task of the stream that is not committed yet.

    Ray is connected. `watch` is called twice a second with where the run stands. Returns the
    stream, whose journal holds all that was committed. Raises the worker's own PromptideError, or
    what Ray Train ended with.
    """
    directory = RunDirectory.of(experiment)
    stream = start_task_stream(
        name=f"task-stream-{experiment.run_name}",
        namespace="promptide",
        journal_uri=directory.stream.uri,
        manifest_root=experiment.benchmark_folder().uri,
        tasks=list(tasks),
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
    with _watching(stream, experiment.run_name, watch):
        try:
            trainer.fit()
        except SystemExit as error:
            # Ray Train's own handler of Ctrl-C aborts the workers and exits.
            raise KeyboardInterrupt from error
        except ray.train.TrainingFailedError as error:
            raise _cause(error, directory.logs.uri) from error
    return stream


@contextmanager
def _watching(
    stream: TaskStreamHandle, consumer: str, watch: Callable[[ConsumerStatus], None]
) -> Iterator[None]:
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            status = stream.status()["consumers"].get(consumer)
            if status is not None:
                watch(status)

    thread = threading.Thread(target=look, name="promptide-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


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
