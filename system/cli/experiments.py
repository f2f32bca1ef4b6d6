"""The experiment that a command's words describe, of a stream or of a model."""

from collections.abc import Sequence

from system.config.compose import STREAM, composed_values, experiment_of, stage_name
from system.config.schema import ExperimentConfig
from system.engine.model_stage import ModelExperiment, model_experiment


def experiment_from(
    overrides: Sequence[str], file: str | None
) -> ExperimentConfig | ModelExperiment:
    """The experiment of overrides, or of a resolved config's file."""
    values = composed_values(overrides, file)
    return experiment_of(values) if stage_name(values) == STREAM else model_experiment(values)
