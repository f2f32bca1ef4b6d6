"""Keeps the pending tasks of a live stream in the order that the run's config asks for."""

from collections.abc import Sequence
from uuid import uuid4

from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.stream.preflight import stream_order
from system.stream.task_source import StreamStatus, TaskSource


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
    append_id = uuid4().hex
    while True:
        status = stream.status()
        fits = status["open"] and len(status["pending"]) + len(tasks) <= status["max_pending"]
        new = [task for task in dict.fromkeys(tasks) if task not in status["tasks"]]
        order = _order(experiment, status, new) if fits else None  # it is refused if not
        try:
            return stream.append(tasks, append_id, order)
        except ConfigError:  # as above
            if stream.status()["pending"] == status["pending"]:
                raise


def _order(
    experiment: ExperimentConfig, status: StreamStatus, new: Sequence[str] = ()
) -> list[str]:
    """The pending tasks and the new ones as the policy has them.

    It sees them as they were given, after the task that was handed out last.
    """
    given = [task for task in status["given"] if task in status["pending"]]
    handed_out = status["tasks"][: len(status["tasks"]) - len(given)]
    pending = [*given, *new]
    if not pending or experiment.benchmark.order == "given":
        return pending
    policy = stream_order(experiment, [*status["tasks"], *new])
    return list(policy.order(pending, handed_out[-1] if handed_out else None))
