"""An alignment, checked: a method, a grounder, what it learns from and is judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from system.config.parse import parse_dataclass
from system.config.schema import GrounderConfig
from system.data.shards.manifest import Manifest
from system.diff_prompt.latent_source import latent_section, latent_stage
from system.diff_prompt.prompt_latents import LatentStage
from system.engine.epochs import trained
from system.engine.model_stage import ModelExperiment
from system.errors import ConfigError, DataError
from system.grounders.grounder import Grounder, load_grounder
from system.methods.base import GroundingSetting, Method, build_task_method, method_class
from system.objectives.grounding.rec_scoring import (
    ZERO_SHOT_FOLDER,
    ChosenExpressions,
    chosen_expressions,
)
from system.storage.data_directory import DataDirectory
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder

KIND = "alignment"


@dataclass(frozen=True)
class AlignmentSettings:
    """The stage's settings; optimiser and rate are Diff-Prompt's published ones.

    The global batch is cut into `micro_batches` equal parts, which the workers share; what is
    learned does not depend on how many workers there are.
    """

    name: str
    epochs: int
    batch_size: int = 32
    micro_batches: int = 2
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    splits: tuple[str, ...] = ("test",)  # what it is judged on; the first one's figures lead
    train_expressions: int | None = None  # of each task, spread over its split; null: all
    test_expressions: int | None = None  # the same for each task of each of `splits`
    evaluation_batch: int = 32
    checkpoint_steps: int = 200  # a run that is killed does at most so many steps again
    loader_threads: int = 1

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "micro_batches",
            "train_expressions",
            "test_expressions",
            "evaluation_batch",
            "checkpoint_steps",
            "loader_threads",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be cut into micro_batches="
                f"{self.micro_batches} equal parts"
            )
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise ValueError(f"splits={list(self.splits)} must name at least one, and none twice")
        if "train" in self.splits:
            raise ValueError("splits has 'train', what the method learns from; take val or test")


@dataclass(frozen=True)
class AlignmentExperiment(ModelExperiment):
    """A model's experiment with the two sections that an alignment has beside."""

    method: dict[str, Any]
    grounder: GrounderConfig | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grounder is None:
            raise ConfigError("grounder is not set; choose a group, such as grounder=tiny_grounder")


@dataclass(frozen=True)
class AlignmentPlan:
    """What an alignment depends on, and where its result lies."""

    experiment: AlignmentExperiment
    settings: AlignmentSettings
    manifest: Manifest
    tasks: tuple[str, ...]

    @classmethod
    def of(cls, experiment: ModelExperiment) -> AlignmentPlan:
        """Raises ConfigError or DataError naming the field or file that cannot be used."""
        assert isinstance(experiment, AlignmentExperiment)
        assert experiment.grounder is not None
        if not isinstance(experiment.method.get("name"), str):
            raise ConfigError("method.name is missing; choose a method group, such as method=vpt")
        settings = parse_dataclass(AlignmentSettings, experiment.stage, "config.stage")
        workers = max(experiment.cluster.workers, 1)
        if settings.micro_batches % workers:
            raise ConfigError(
                f"stage.micro_batches={settings.micro_batches} cannot be shared by "
                f"cluster.workers={workers}; make it a multiple"
            )
        manifest = experiment.manifest()
        tasks = manifest.order(experiment.benchmark.tasks)
        plan = cls(experiment, settings, manifest, tasks)
        method_class(experiment.method["name"], "grounding")
        return plan

    @cached_property
    def grounder(self) -> Grounder:
        """The frozen grounder; loaded once."""
        assert self.experiment.grounder is not None
        return load_grounder(self.experiment.grounder)

    @property
    def digest(self) -> str:
        """Of all that determines the result: settings, data, weights, seed; not the workers."""
        free = {"checkpoint_steps", "loader_threads"}
        stage = {key: value for key, value in asdict(self.settings).items() if key not in free}
        return FeatureStore.key(
            kind=KIND,
            stage=stage,
            method=self.experiment.method,
            grounder=self.grounder.fingerprint,
            benchmark=self.manifest.fingerprint,
            tasks=list(self.tasks),
            seed=self.experiment.seed,
        )

    @property
    def folder(self) -> Folder:
        """Where the finished result lies."""
        return DataDirectory.of(self.experiment).model(KIND, self.digest)

    @property
    def zero_shot_store(self) -> FeatureStore:
        """What the frozen grounder found, shared by all runs."""
        return FeatureStore(DataDirectory.of(self.experiment).store(ZERO_SHOT_FOLDER))

    @cached_property
    def generator(self) -> ModelExperiment | None:
        """The run that makes the model whose latents the method needs, if it needs any.

        Raises ConfigError if the method names no stage that makes latents.
        """
        section = latent_section(self.experiment.method)
        return None if section is None else self.experiment.with_stage(section)

    @property
    def latent_stage(self) -> LatentStage:
        """The stage of `generator`. Raises ConfigError for a stage that makes no latents."""
        assert self.generator is not None
        return latent_stage(self.generator.stage)

    def method(self) -> Method:
        """A fresh method, its parameters as the seed makes them.

        Raises ConfigError for settings that are wrong or do not fit the grounder.
        """
        masks = None
        if self.generator is not None:
            masks = self.latent_stage.masks(self.generator)
        setting = GroundingSetting(self.grounder.shape, self.experiment.seed, masks=masks)
        return build_task_method(self.experiment.method, setting)

    def expressions(self, split: str) -> dict[str, ChosenExpressions]:
        """The expressions of a split that are used, by task.

        Raises DataError for a task without the split or an expression without a box.
        """
        settings = self.settings
        most = settings.train_expressions if split == "train" else settings.test_expressions
        found = {}
        for task in self.tasks:
            handle = self.manifest.task(task).handle(split)
            found[task] = chosen_expressions(handle, most)
        return found

    def check(self) -> None:
        """Whether everything is there and fits, before anything expensive starts.

        Raises ConfigError or DataError naming the field or file.
        """
        self.manifest.verify()
        method = self.method()
        if self.generator is not None and method.latent_needs is not None:
            self.latent_stage.check_needs(self.generator, method.latent_needs)
        train = sum(map(len, self.expressions("train").values()))
        if trained(method) and train < self.settings.batch_size:
            raise DataError(
                f"the train split has {train} expressions, fewer than the batch of "
                f"{self.settings.batch_size}; lower stage.batch_size"
            )
        for split in self.settings.splits:
            if not any(map(len, self.expressions(split).values())):
                raise DataError(
                    f"benchmark {self.experiment.benchmark.name!r} has no expression in split "
                    f"{split!r}; take another under stage.splits"
                )
