"""Models that trials train, or find: a trial's own, and those that it builds on."""

import time
from typing import Any

from actors.model_driver import run_model
from system.engine.model_making import sole_maker
from system.engine.model_stage import ModelExperiment, ModelStage, show_nothing, stage_of
from system.loggers.model_loggers import ModelLoggers
from system.storage.run_directory import METRICS, RunDirectory


def made_model(experiment: ModelExperiment) -> tuple[dict[str, Any], float | None]:
    """Make a model that is not there yet, after those it builds on, and judge it.

    Ray is connected, and the caller the only writer of the run's directory. Returns its
    metrics.json, and the seconds of its own training; None if another trial or run has trained it.
    """
    stage = stage_of(experiment)
    return _made(experiment, stage, stage.finished(experiment))


def made_beneath(experiment: ModelExperiment) -> None:
    """Make a model that a trial builds on, in a run directory of its own, if it is not there."""
    stage = stage_of(experiment)
    if not stage.finished(experiment):
        RunDirectory.of(experiment).claim(experiment)
        _made(experiment, stage, finished=False)


def _made(
    experiment: ModelExperiment, stage: ModelStage, finished: bool
) -> tuple[dict[str, Any], float | None]:
    for earlier in () if finished else stage.before(experiment):
        made_beneath(earlier)
    # not before: W&B ends all logs of a process with the first
    with ModelLoggers(experiment, stage.logged) as loggers:
        seconds = None if finished else _trained(experiment, stage, loggers)
        stage.report(experiment, _untold)
        metrics = RunDirectory.of(experiment).folder.read_json(METRICS)
        loggers.final(metrics)
    return metrics, seconds


def _trained(experiment: ModelExperiment, stage: ModelStage, loggers: ModelLoggers) -> float | None:
    """Train a model, or wait for another trial that does; the seconds of the former."""
    with sole_maker(experiment, stage, _untold, on_lost=_unheard) as there:
        if there:
            return None
        started = time.perf_counter()
        run_model(experiment, stage, show_nothing, loggers.trained)
        return time.perf_counter() - started


def _untold(_: str) -> None:
    """Trials show themselves by their figure; the rest is in their directories."""


def _unheard() -> None:
    """Whoever took over makes the same model, to the bit: what is under way does no harm."""
