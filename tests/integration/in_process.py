"""A stream in the caller's own process: neither Ray's processes nor an actor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.settings import StreamSettings
from actors.state.task_stream_state import TaskStream
from actors.stream_driver import _trainer
from system.config.schema import ExperimentConfig
from system.errors import QuarantinedError
from system.stream.preflight import prepared, stream_tasks
from system.stream.run_results import finish_run
from tests.integration.small_stream import small_experiment


def learn(
    root: Path, name: str, *more: str, feed: Callable[[TaskStream], None] = lambda _: None
) -> dict[str, Any]:
    """Learn what `prepare_small_stream` wrote, after `feed` had the stream; the run's metrics."""
    return learn_experiment(small_experiment(root, name, "cluster.workers=0", *more), feed)


def learn_experiment(
    experiment: ExperimentConfig, feed: Callable[[TaskStream], None] = lambda _: None
) -> dict[str, Any]:
    """Learn any stream in this process, without workers; the run's metrics."""
    name = experiment.run_name
    manifest = prepared(experiment)
    tasks = stream_tasks(experiment, manifest)
    stream = StreamSettings.of(experiment, tasks).open()
    feed(stream)
    trainer = _trainer(experiment, manifest.fingerprint, tasks, stream)  # type: ignore[arg-type]
    try:
        trainer.fit()
    except QuarantinedError:  # as `run_stream` does
        trainer.fit()
    metrics, _ = finish_run(
        experiment,
        manifest.fingerprint,
        tuple(stream.status()["tasks"]),
        stream.committed(name),
        stream.access_log(),
        {},
        stream.quarantined(name),
    )
    return metrics
