"""The model stage whose latents a stream's method takes, as an experiment of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from system.config.schema import ExperimentConfig
from system.diff_prompt.prompt_latents import LatentStage
from system.engine.model_stage import MODEL_STAGES, ModelExperiment, model_experiment
from system.errors import ConfigError
from system.methods.base import method_class


@dataclass(frozen=True)
class LatentSource:
    """The run that makes the model, and its stage."""

    generator: ModelExperiment
    stage: LatentStage


def latent_source(experiment: ExperimentConfig, method: Mapping[str, Any]) -> LatentSource | None:
    """The stage that makes the latents of the method; None for a method without.

    The model is that of all the benchmark's tasks, so that streams of any tasks share it; a joined
    stream's is that of the tasks which it joins. Raises ConfigError if the method names no stage
    that makes latents.
    """
    section = latent_section(method)
    if section is None:
        return None
    stage = latent_stage(section)
    tasks = experiment.benchmark.tasks if experiment.stream.joined else None
    benchmark = replace(experiment.benchmark, tasks=tasks, order="given", similarity=None)
    values = {
        "run_name": f"{experiment.run_name}-{section['name']}",
        "storage_path": experiment.storage_path,
        "data_path": experiment.data_path,
        "seed": experiment.seed,
        "benchmark": asdict(benchmark),
        "stage": dict(section),
        "cluster": asdict(experiment.cluster),
        "loggers": experiment.loggers,
    }
    return LatentSource(model_experiment(values), stage)


def latent_section(method: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the stage that makes a method's latents; None for a method without.

    Raises ConfigError if the method names none.
    """
    if not method_class(method["name"], "grounding").needs_latents:
        return None
    section = method.get("generator")
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise ConfigError(
            f"method={method['name']} needs method.generator, the settings of the stage that makes "
            "its latents"
        )
    return section


def latent_stage(section: Mapping[str, Any]) -> LatentStage:
    """The stage of such settings. Raises ConfigError for a stage that makes no latents."""
    name = section["name"]
    stage = MODEL_STAGES.get(name)
    if not isinstance(stage, LatentStage):
        raise ConfigError(f"method.generator.name={name!r} is a stage that makes no latents")
    return stage
