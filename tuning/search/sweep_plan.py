"""What a sweep runs: settings (overrides on the experiment), each once with every seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from system.config.compose import composed_values, override
from system.errors import ConfigError
from system.storage.files import Folder
from tuning.report.measure import Measure
from tuning.run.trial_kind import Experiment, kind_named, kind_of
from tuning.search.space import Values
from tuning.search.sweep_config import TuneConfig, tune_config

TRIALS = "trials"
RATE = "learning_rate"  # how its key ends


@dataclass(frozen=True)
class Origin:
    """Where a setting's trial begins: with what another one's learned in its first tasks."""

    setting: str
    tasks: int


@dataclass(frozen=True)
class Setting:
    """One combination: `label` is its name in directories and tables, `values` what was drawn."""

    label: str
    overrides: tuple[str, ...]
    values: Values = field(default_factory=dict)
    origin: Origin | None = None

    def with_value(self, key: str, value: Any) -> "Setting":
        """The same with one more override."""
        return replace(self, overrides=(*self.overrides, override(key, value)))


@dataclass(frozen=True)
class Trial:
    """One run: a setting with one seed, in its own run directory."""

    setting: Setting
    seed: int
    experiment: Experiment

    @property
    def name(self) -> str:
        """The name of the run, unique among all sweeps of a storage path."""
        return self.experiment.run_name


@dataclass(frozen=True)
class SweepPlan:
    """The sweep of a command line: its config and the experiment that trials are variations of."""

    overrides: tuple[str, ...]
    file: str | None
    values: Mapping[str, Any]
    config: TuneConfig
    experiment: Experiment

    @classmethod
    def compose(cls, overrides: Sequence[str], file: str | None = None) -> "SweepPlan":
        """From a command's overrides. Raises ConfigError as `compose` and `tune_config` do."""
        values = composed_values(overrides, file)
        config, kind = tune_config(values), kind_named(values)
        experiment: Experiment = kind.parse(values)
        kind.check_tune(experiment, config)
        _check_overrides(overrides, config)
        return cls(tuple(overrides), file, values, config, experiment)

    @property
    def folder(self) -> Folder:
        """`<storage_path>/<run name>/` of the sweep."""
        return Folder.of(self.experiment.storage_path).child(self.experiment.run_name)

    def measure(self, tasks: Sequence[str]) -> Measure:
        """What the trials are compared by, after so many tasks."""
        kind = kind_of(self.experiment)
        return Measure(kind.name, *kind.measure(self.config.metric), len(tasks))

    @cached_property
    def bases(self) -> list[Setting]:
        """The methods that are tried, or the experiment's own, without values of the space."""
        if not self.config.methods:
            return [Setting(kind_of(self.experiment).label(self.experiment), ())]
        return [
            Setting(
                label, overrides if _names_method(overrides) else (f"method={label}", *overrides)
            )
            for label, overrides in self.config.methods.items()
            if not self.config.only or label in self.config.only
        ]

    def settings(self, bases: Sequence[Setting]) -> list[Setting]:
        """Each base with each point of a grid or of random draws."""
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

    def trial(self, setting: Setting, seed: int, folder: str = TRIALS, *more: str) -> Trial:
        """A setting's run with one seed, in its own directory under the sweep's.

        Raises ConfigError naming the key that the config does not have or the value it refuses.
        """
        overrides = [*self.overrides, *setting.overrides, *more, f"seed={seed}"]
        try:
            values = composed_values(overrides, self.file)
            experiment: Experiment = kind_named(values).parse(values)
        except ConfigError as error:
            raise ConfigError(f"setting {setting.label!r} of the sweep: {error}") from error
        name = f"{self.experiment.run_name}-{setting.label}-seed{seed}"
        place = self.folder.child(folder).uri
        experiment = replace(
            experiment,
            run_name=name,
            storage_path=place,
            data_path=self.experiment.data_path,
            cluster=self.experiment.cluster,
        )
        return Trial(setting, seed, experiment)

    def trials(self, settings: Sequence[Setting]) -> Iterator[Trial]:
        """All trials, a seed at a time: the first seed tells which settings deserve the others."""
        for seed in self.config.seeds:
            for setting in settings:
                yield self.trial(setting, seed)


def at_point(base: Setting, point: Values, number: int) -> Setting:
    """A base with the values of one point of the space."""
    overrides = tuple(override(key, value) for key, value in point.items())
    return Setting(f"{base.label}-{number:03d}", (*base.overrides, *overrides), point)


def _check_overrides(overrides: Sequence[str], config: TuneConfig) -> None:
    """Raises ConfigError for what a command fixes and the sweep varies: one would overrule it."""
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
            remedy = (
                f"the sweep chooses it from tune.learning_rates; take that out by ~tune.{RATE}s"
            )
        else:
            continue
        raise ConfigError(f"{key} is given, but {remedy}")


def _names_method(overrides: Sequence[str]) -> bool:
    return any(text.partition("=")[0] == "method" for text in overrides)
