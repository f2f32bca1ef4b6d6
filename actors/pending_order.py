"""Keeps the pending tasks of a live stream in the order that the run's config asks for."""

from system.config import ExperimentConfig
from system.errors import ConfigError
from system.preflight import stream_order
from system.stages.task_source import TaskSource


def arrange(stream: TaskSource, experiment: ExperimentConfig) -> list[str]:
    """Put the pending tasks in the order of `benchmark.order`, and return them.

    The policy sees them as they were given, after the task that was handed out last.
    """
    while True:
        status = stream.status()
        pending = [task for task in status["given"] if task in status["pending"]]
        handed_out = status["tasks"][: len(status["tasks"]) - len(pending)]
        order = pending
        if pending and experiment.benchmark.order != "given":
            policy = stream_order(experiment, status["tasks"], experiment.backbone.load)
            order = list(policy.order(pending, handed_out[-1] if handed_out else None))
        try:
            stream.reorder(order)
            return order
        except ConfigError:  # one was taken meanwhile: it is not pending any more
            if stream.status()["pending"] == status["pending"]:
                raise
