"""A stream in the caller's own process: neither Ray's processes nor an actor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.drive import fit
from actors.settings import StreamSettings
from actors.state.task_stream_state import TaskStream
from actors.stream_run import LearnedTasks, StreamRun
from system.config.schema import ExperimentConfig
from system.errors import QuarantinedError
from system.stream.preflight import Checked, prepared, stream_tasks
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
    run = StreamRun(experiment)
    run.checked, run.stream = Checked(manifest, tasks), stream
    try:
        fit(run)
    except QuarantinedError:  # as the driver does
        fit(run)
    run.left = LearnedTasks.of(stream, name)
    metrics = run.finish()
    assert metrics is not None
    return dict(metrics)
