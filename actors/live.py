"""A run's stream from outside of the run: its actor while the run goes on, else its journal."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from uuid import uuid4

import ray
from ray.exceptions import RayError

from actors.handle import NAMESPACE, TaskStreamHandle, find_task_stream, stream_name
from actors.settings import StreamSettings
from actors.starting import start_ray
from actors.state.task_stream_state import TaskStream
from system.config.schema import ExperimentConfig
from system.engine.contents import contents_of
from system.errors import ClusterError, ConfigError, StorageError
from system.storage.files import Folder
from system.storage.run_directory import CLUSTER, CONFIG, RunDirectory
from system.storage.writer_lock import sole_writer, writer_of
from system.stream.preflight import check_tasks, prepared, stream_order
from system.stream.task_source import StreamClosedError, StreamFullError, StreamStatus, TaskSource

SECONDS_BETWEEN_TRIES = 2.0  # of an append that waits for room


@dataclass(frozen=True)
class StreamLook:
    """State of a run's stream: its status, epochs trained per task, and where this comes from."""

    run: str
    status: StreamStatus
    epochs: dict[str, int]
    source: str  # whether the run goes on, and so where this comes from


@contextmanager
def reachable(folder: Folder) -> Iterator[None]:
    """Let other processes find this driver's Ray by the run's folder, inside the block."""
    place = {
        "address": ray.get_runtime_context().gcs_address,
        "auth": os.environ.get("RAY_AUTH_MODE", ""),
    }
    folder.write_json(CLUSTER, place)
    try:
        yield
    finally:
        with suppress(StorageError):  # it is not believed once its writer is gone
            folder.delete(CLUSTER)


def append(experiment: ExperimentConfig, tasks: Sequence[str], *, wait: bool) -> list[str]:
    """Put tasks at the end of the run's stream, also before its first start; returns the pending.

    With `wait` it waits for room. Raises DataError or ConfigError for a task that the run cannot
    learn, StreamClosedError, StreamFullError, StorageError when the stream cannot be reached.
    """
    experiment = _as_begun(experiment) or experiment
    if not experiment.stream.live:
        raise StreamClosedError(
            f"run {experiment.run_name!r} has stream.live=false: its tasks were given at the start"
        )
    check_tasks(experiment, prepared(experiment), tasks)
    with _stream(experiment) as stream:
        while True:
            try:
                return append_in_order(stream, experiment, tasks)
            except StreamFullError:
                if not wait or isinstance(stream, TaskStream):  # nobody takes any task now
                    raise
            time.sleep(SECONDS_BETWEEN_TRIES)


def close(experiment: ExperimentConfig) -> None:
    """Let the run end after the tasks that its stream has."""
    experiment = _begun(experiment)
    with _stream(experiment) as stream:
        stream.close()


def status(experiment: ExperimentConfig) -> StreamLook:
    """Where the run stands: from its actor while it goes on, else from the journal alone.

    Raises ConfigError for a run that is not there, StorageError for a journal that is broken.
    """
    experiment = _begun(experiment)
    directory = RunDirectory.of(experiment)
    source = "does not go on; this is what its journal says"
    writer = writer_of(directory.folder)
    if writer is not None and not writer.gone:
        with suppress(StorageError), _of_running(experiment) as stream:
            return _look(stream, experiment.run_name, "goes on")
        source = "is starting or ending, or its Ray is out of reach; this is what its journal says"
    if not directory.stream.names():
        raise StorageError(f"{directory.stream.uri} has no record yet: nothing was leased")
    return _look(StreamSettings.begun(experiment).open(), experiment.run_name, source)


def arrange(stream: TaskSource, experiment: ExperimentConfig) -> list[str]:
    """Put the pending tasks in the order of `benchmark.order`, and return them."""
    while True:
        status = stream.status()
        order = _order(experiment, status)
        try:
            stream.reorder(order)
            return order
        except ConfigError:  # one was taken meanwhile: it is not pending any more
            if stream.status()["pending"] == status["pending"]:
                raise


def append_in_order(
    stream: TaskSource, experiment: ExperimentConfig, tasks: Sequence[str]
) -> list[str]:
    """Append tasks and put all pending ones in order, in one step; returns them.

    Raises what `TaskSource.append` raises.
    """
    call_id = uuid4().hex
    while True:
        status = stream.status()
        fits = status["open"] and len(status["pending"]) + len(tasks) <= status["max_pending"]
        new = [task for task in dict.fromkeys(tasks) if task not in status["tasks"]]
        order = _order(experiment, status, new) if fits else None  # it is refused if not
        try:
            return stream.append(tasks, order, call_id=call_id)
        except ConfigError:  # as above
            if stream.status()["pending"] == status["pending"]:
                raise


def _order(
    experiment: ExperimentConfig, status: StreamStatus, new: Sequence[str] = ()
) -> list[str]:
    """The pending tasks and the new ones as the policy has them.

    The policy gets them as they were given, after the task that was handed out last.
    """
    given = [task for task in status["given"] if task in status["pending"]]
    handed_out = status["tasks"][: len(status["tasks"]) - len(given)]
    pending = [*given, *new]
    if not pending or experiment.benchmark.order == "given":
        return pending
    policy = stream_order(experiment, [*status["tasks"], *new])
    return list(policy.order(pending, handed_out[-1] if handed_out else None))


def _look(stream: TaskStream | TaskStreamHandle, run: str, source: str) -> StreamLook:
    found = stream.status()
    committed = zip(found["tasks"], stream.committed(run), strict=False)
    return StreamLook(
        run, found, {task: len(payload["log"]) for task, payload in committed}, source
    )


def _as_begun(experiment: ExperimentConfig) -> ExperimentConfig | None:
    """The run of that name with its own config; None if there is none yet."""
    directory = RunDirectory.of(experiment)
    if not directory.folder.exists(CONFIG):
        return None
    begun = ExperimentConfig.from_dict(directory.config())
    return replace(begun, storage_path=experiment.storage_path)  # it may have been moved


def _begun(experiment: ExperimentConfig) -> ExperimentConfig:
    begun = _as_begun(experiment)
    if begun is None:
        raise ConfigError(
            f"run_name={experiment.run_name!r}: no such run in {experiment.storage_path}; give the "
            "overrides run_name and storage_path of the run"
        )
    return begun


@contextmanager
def _stream(experiment: ExperimentConfig) -> Iterator[TaskStream | TaskStreamHandle]:
    """The run's stream: its actor, or where no driver runs the journal under the writer's lock."""
    directory = RunDirectory.of(experiment)
    writer = writer_of(directory.folder)
    if writer is not None and not writer.gone:
        with _of_running(experiment) as handle:
            yield handle
        return
    with sole_writer(directory.folder):
        directory.claim(experiment, contents_of(experiment))
        yield StreamSettings.begun(experiment).open()


@contextmanager
def _of_running(experiment: ExperimentConfig) -> Iterator[TaskStreamHandle]:
    """The actor of a run that goes on. Raises StorageError saying why it cannot be reached."""
    address = RunDirectory.of(experiment).cluster().get("address")
    again = f"run {experiment.run_name!r} is starting or ending; try again in a while"
    if address is None:
        raise StorageError(again)
    connected = not ray.is_initialized()
    if connected:
        try:
            start_ray(address, logging.ERROR)
        except (ConfigError, ClusterError) as error:
            raise StorageError(
                f"run {experiment.run_name!r} goes on at Ray {address}, which cannot be reached "
                f"from here ({error}); use a node of that cluster"
            ) from error
    try:
        handle = find_task_stream(stream_name(experiment.run_name), NAMESPACE)
        if handle is None:
            raise StorageError(again)
        try:
            yield handle
        except RayError as error:
            raise StorageError(f"{again} ({error})") from error
    finally:
        if connected:
            ray.shutdown()
