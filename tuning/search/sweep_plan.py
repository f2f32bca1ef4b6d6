"""A sweep's plan: trial configs (overrides on the experiment), each run once per seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from system.config.compose import STREAM, composed_values, stage_name
from system.config.overrides import override
from system.config.schema import BenchmarkConfig
from system.errors import ConfigError
from system.storage.files import Folder
from tuning.run.model_trial import ModelTrials
from tuning.run.stream_trial import StreamTrials
from tuning.run.trial_kind import Experiment, TrialKind, TrialRecord
from tuning.search.space import Values
from tuning.search.sweep_config import SweepMetric, TuneConfig, tune_config

TRIALS = "trials"
RATE = "learning_rate"  # last part of its key


def kind_of(values: Mapping[str, Any]) -> TrialKind[Any]:
    """The kind of trial of composed values."""
    return StreamTrials() if stage_name(values) == STREAM else ModelTrials()


@dataclass(frozen=True)
class Origin:
    """Start of a fork: the label of its parent, and how many of the parent's tasks it inherits."""

    parent: str
    tasks: int


@dataclass(frozen=True)
class TrialConfig:
    """One combination of values of the space.

    Attributes:
        label: its name in directories and tables.
        overrides: Hydra overrides on the sweep's experiment.
        values: the values from the space, by key.
        origin: set for a fork of population based training.
    """

    label: str
    overrides: tuple[str, ...]
    values: Values = field(default_factory=dict)
    origin: Origin | None = None

    def with_value(self, key: str, value: Any) -> "TrialConfig":
        """The same with one more override."""
        return replace(self, overrides=(*self.overrides, override(key, value)))


@dataclass(frozen=True)
class Trial:
    """One run: a trial config with one seed, in its own run directory."""

    config: TrialConfig
    seed: int
    experiment: Experiment

    @property
    def name(self) -> str:
        """The name of the run, unique among all sweeps of a storage path."""
        return self.experiment.run_name

    @property
    def kind(self) -> TrialKind[Any]:
        """Whether it learns a stream or trains a model."""
        return kind_of(self.experiment.to_dict())

    def record(self, metric: Sequence[str]) -> TrialRecord:
        """Its stored state. Raises StorageError."""
        return self.kind.record(self.experiment, metric)


@dataclass(frozen=True)
class SweepPlan:
    """The sweep of a command line: its config, and the experiment that trials are variations of."""

    overrides: tuple[str, ...]
    file: str | None
    values: Mapping[str, Any]
    config: TuneConfig
    experiment: Experiment

    @classmethod
    def compose(cls, overrides: Sequence[str], file: str | None = None) -> "SweepPlan":
        """From a command's overrides. Raises ConfigError as `compose` and `tune_config` do."""
        values = composed_values(overrides, file)
        config, kind = tune_config(values), kind_of(values)
        experiment: Experiment = kind.parse(values)
        kind.check_tune(experiment, config)
        _check_overrides(overrides, config)
        return cls(tuple(overrides), file, values, config, experiment)

    @property
    def kind(self) -> TrialKind[Any]:
        """The kind of all its trials."""
        return kind_of(self.values)

    @property
    def folder(self) -> Folder:
        """The sweep's directory, `<storage_path>/<run name>/`."""
        return Folder.of(self.experiment.storage_path).child(self.experiment.run_name)

    def metric(self, tasks: Sequence[str]) -> SweepMetric:
        """The metric of trials that learn `tasks`."""
        return SweepMetric(self.kind.name, *self.kind.score_name(self.config.metric), len(tasks))

    @cached_property
    def bases(self) -> list[TrialConfig]:
        """A trial config for each method of `tune.methods`, or for the experiment's own method.

        Without values of the space.
        """
        if not self.config.methods:
            return [TrialConfig(self.kind.label(self.experiment), ())]
        return [
            TrialConfig(
                label, overrides if _names_method(overrides) else (f"method={label}", *overrides)
            )
            for label, overrides in self.config.methods.items()
            if not self.config.only or label in self.config.only
        ]

    def trial_configs(self, bases: Sequence[TrialConfig]) -> list[TrialConfig]:
        """Each base at each point of the grid or of the random draws."""
        space, config = self.config.parsed_space(), self.config
        if not space.dimensions:
            return list(bases)
        points = (
            space.grid()
            if config.search == "grid"
            else space.sample(config.samples, config.search_seed)
        )
        return [
            at_point(base, point, number) for base in bases for number, point in enumerate(points)
        ]

    def trial(self, config: TrialConfig, seed: int, folder: str = TRIALS, *more: str) -> Trial:
        """A trial config's run with one seed, in its own directory under the sweep's.

        `more` are further overrides. Raises ConfigError naming an unknown key or a refused value.
        """
        overrides = [*self.overrides, *config.overrides, *more, f"seed={seed}"]
        try:
            values = composed_values(overrides, self.file)
            experiment: Experiment = kind_of(values).parse(values)
        except ConfigError as error:
            raise ConfigError(f"trial config {config.label!r} of the sweep: {error}") from error
        experiment = replace(
            experiment,
            run_name=f"{self.experiment.run_name}-{config.label}-seed{seed}",
            storage_path=self.folder.child(folder).uri,
            data_path=self.experiment.data_path,
            cache_path=self.experiment.cache_path,
            cluster=self.experiment.cluster,
            benchmark=self._prepared(experiment.benchmark),
        )
        return Trial(config, seed, experiment)

    def _prepared(self, benchmark: BenchmarkConfig) -> BenchmarkConfig:
        """A trial's benchmark, with the options of the sweep's if it is that one."""
        own = self.experiment.benchmark
        return replace(benchmark, options=own.options) if benchmark.name == own.name else benchmark

    def trials(self, configs: Sequence[TrialConfig]) -> Iterator[Trial]:
        """All trials, one seed after the other.

        A trial config that is stopped with the first seed is not tried with the others.
        """
        for seed in self.config.seeds:
            for config in configs:
                yield self.trial(config, seed)


def at_point(base: TrialConfig, point: Values, number: int) -> TrialConfig:
    """A base with the values of one point of the space."""
    overrides = tuple(override(key, value) for key, value in point.items())
    return TrialConfig(f"{base.label}-{number:03d}", (*base.overrides, *overrides), point)


def _check_overrides(overrides: Sequence[str], config: TuneConfig) -> None:
    """Raises ConfigError for an override of a key that the sweep varies: one would be ignored."""
    keys = [text.partition("=")[0].lstrip("+") for text in overrides]
    searched = [dimension.key for dimension in config.parsed_space().dimensions]
    for key in keys:
        if key == "seed":
            remedy = "the seeds of a sweep are tune.seeds=[...]"
        elif key in searched:
            remedy = f"the sweep searches it: list one value under tune.space.{key}"
        elif key == "method" and config.methods:
            remedy = "the sweep tries those of tune.methods; choose among them by tune.only=[...]"
        elif key.endswith(f".{RATE}") and config.learning_rates:
            remedy = f"the sweep chooses it from tune.learning_rates; remove that by ~tune.{RATE}s"
        else:
            continue
        raise ConfigError(f"{key} is given, but {remedy}")


def _names_method(overrides: Sequence[str]) -> bool:
    return any(text.partition("=")[0] == "method" for text in overrides)
