"""The models whose latents a stream's method takes, as experiments of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from system.config.schema import BenchmarkConfig, ExperimentConfig
from system.data.prepare.origin import Origin
from system.data.shards.manifest import Manifest, SplitHandle
from system.data.shards.masks import mask_area
from system.data.shards.split_objects import read_expressions
from system.diff_prompt.mask_sources import (
    MeanLatents,
    ShuffledLatents,
    TrueLatents,
    require_two,
)
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.generator_settings import REGRESSOR
from system.diff_prompt.prompt_latents import LatentStage, PromptLatents
from system.engine.model_stage import MODEL_STAGES, ModelExperiment, Show, model_experiment
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, DataError
from system.methods.base import LatentNeeds, method_class
from system.storage.data_directory import DataDirectory

OTHER = "benchmark"  # key of `method.generator` that is none of its stage


@dataclass(frozen=True)
class LatentSource:
    """The run that makes the generator, and its stage; what the controls of it need."""

    generator: ModelExperiment
    stage: LatentStage

    def check(self, needs: LatentNeeds) -> None:
        """Raises ConfigError or DataError if such latents cannot be made; reads no images."""
        if needs.source in ("generated", "shuffled"):
            self.stage.check_needs(self.generator, needs)
            return
        if needs.fresh_noise:
            raise ConfigError(
                f"method.fresh_noise=true: mask_source={needs.source} draws nothing, so nothing of "
                "it can be fresh; set method.fresh_noise=false"
            )
        if needs.source == "mean":
            GeneratorPlan.of(self.generator).expressions("train")

    def models(self, needs: LatentNeeds) -> Sequence[ModelExperiment]:
        """The runs whose models have to be there; of models that were given, none."""
        plan = GeneratorPlan.of(self.generator)
        if needs.source in ("generated", "shuffled"):
            return () if plan.given is not None else (self.generator,)
        if needs.source == "regressed":
            return (self._regressor,)
        return () if plan.vae.given is not None else (plan.vae.experiment,)

    def latents(self, needs: LatentNeeds, group: WorkerGroup, show: Show) -> PromptLatents:
        """The latents of the needed source; every rank has to call this."""
        if needs.source == "regressed":
            regressor = self._regressor
            return latent_stage(regressor.stage).latents(regressor, needs, group, show)
        if needs.source == "true":
            return TrueLatents(GeneratorPlan.of(self.generator), needs.layers, group, show)
        if needs.source == "mean":
            return MeanLatents(GeneratorPlan.of(self.generator), needs.layers, group)
        drawn = self.stage.latents(self.generator, needs, group, show)
        if needs.source == "shuffled":
            return ShuffledLatents(drawn, self.generator.seed)
        return drawn

    @property
    def _regressor(self) -> ModelExperiment:
        section = {**self.generator.stage, "name": REGRESSOR, "path": None}
        name = f"{self.generator.run_name}-{REGRESSOR}"
        return replace(self.generator, run_name=name, stage=section)


def latent_source(experiment: ExperimentConfig, method: Mapping[str, Any]) -> LatentSource | None:
    """The stage that makes the latents of the method; None for a method without.

    The model is that of all the benchmark's tasks, so that streams of any tasks share it; a joined
    stream's is that of the tasks which it joins. `method.generator.benchmark` names another one,
    whose model it then is. Raises ConfigError if the method names no stage that makes latents,
    DataError if the other benchmark is not prepared.
    """
    section = latent_section(method)
    if section is None:
        return None
    stage = latent_stage(section)
    other = section.get(OTHER)
    if other is None or other == experiment.benchmark.name:
        tasks = experiment.benchmark.tasks if experiment.stream.joined else None
        benchmark = replace(
            experiment.benchmark, tasks=tasks, order="given", similarity=None, held_out=()
        )
    else:
        benchmark = _prepared(experiment, other)
    values = {
        "run_name": f"{experiment.run_name}-{section['name']}",
        "storage_path": experiment.storage_path,
        "data_path": experiment.data_path,
        "cache_path": experiment.cache_path,
        "seed": experiment.seed,
        "benchmark": asdict(benchmark),
        "stage": {key: value for key, value in section.items() if key != OTHER},
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


def as_learned(method: Mapping[str, Any], benchmark: str) -> dict[str, Any]:
    """The settings of a method that was learned on a benchmark, as they hold on any other one.

    Its generator stays the one whose latents its adapters were learned from.
    """
    section = latent_section(method)
    if section is None or section.get(OTHER) is not None:
        return dict(method)
    return {**method, "generator": {**section, OTHER: benchmark}}


def require_masks(method: Mapping[str, Any], handle: SplitHandle) -> None:
    """Raises DataError naming a split that lacks what the method's mask source reads of it."""
    if latent_section(method) is None or not method.get("specific", True):
        return
    for part in handle.members:
        expressions = read_expressions(part)
        if method.get("mask_source") == "shuffled":
            require_two(part, sum(1 for _ in expressions))
        if str(method.get("mask_source")).lower() == "true" and not any(
            mask_area(entry.mask) for entry in expressions
        ):
            raise DataError(
                f"method.mask_source=true: task {part.task!r} has no expression to a mask in split "
                f"{part.split!r}; take a benchmark with masks, or another mask_source"
            )


def _prepared(experiment: ExperimentConfig, name: str) -> BenchmarkConfig:
    """Another benchmark of the same data directory, as it was prepared, with all its tasks."""
    manifest = Manifest.prepared(DataDirectory.of(experiment).benchmark(name), name)
    origin = Origin.recorded(manifest)
    if not origin.whole:
        raise DataError(
            f"method.generator.benchmark={name} was prepared by an earlier version, which did not "
            "record from what; prepare it again"
        )
    return BenchmarkConfig(name, origin.dataset, dict(origin.options))
