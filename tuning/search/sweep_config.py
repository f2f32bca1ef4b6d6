"""The settings of a sweep: the `tune` section of the config."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from system.config.parse import parse_dataclass
from system.config.schema import check_seed
from system.errors import ConfigError
from tuning.run.pruner import Rule
from tuning.search.pbt_config import PbtConfig
from tuning.search.space import Space, parse_space

DEFAULT = "default"  # the entry of `learning_rates` for methods that have none of their own
LEARNING_RATE = "stage.optimiser.learning_rate"
#: What a sweep sets itself, or has for all its trials.
FIXED = ("run_name", "storage_path", "data_path", "cluster", "tune", "experiment")


@dataclass(frozen=True)
class TuneConfig:
    """What is tried, how it is searched, and what ends a trial early.

    Attributes:
        space: keys and their values, see `tuning.search.space`.
        methods: name of a method -> the overrides it is tried with; empty: the experiment's own.
        only: names of `methods` to try this time; empty: all of them.
        seeds: each setting runs once with each; figures are means over them.
        search: "grid" tries every point of listed values; "random" draws `samples` points (crossed
            with the keys that say `grid`); "optuna" lets TPE propose `samples` points.
        samples: see `search`.
        search_seed: what random draws start from.
        fewer_parameters: Optuna looks for few trainable parameters too.
        scheduler: "none"; "asha" or "median", "pbt": see `tuning.search`.
        grace_tasks: a trial is not stopped before it has finished so many tasks.
        reduction: ASHA keeps one in so many, at tasks grace x reduction^k.
        pbt: of population based training.
        metric: the figures whose mean is to be large: recalls of a stream, or a model's own.
        max_concurrent: trials at a time; null: as many as the cluster's CPUs (GPUs) carry.
        learning_rates: method name (or "default") -> the rates to choose from on the validation
            split of the first task; empty: none is chosen.
    """

    space: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, tuple[str, ...]] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    search: Literal["grid", "random", "optuna"] = "grid"
    samples: int = 12
    search_seed: int = 0
    fewer_parameters: bool = False
    scheduler: Literal["none", "asha", "median", "pbt"] = "none"
    grace_tasks: int = 1
    reduction: int = 2
    pbt: PbtConfig = field(default_factory=PbtConfig)
    metric: tuple[str, ...] = ("t2i_r1", "i2t_r1")
    max_concurrent: int | None = None
    learning_rates: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("grace_tasks", 1), ("reduction", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ValueError(f"max_concurrent={self.max_concurrent} must be at least 1")
        for name in ("seeds", "metric"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)} must name at least one, and none twice")
        for seed in self.seeds:
            check_seed(seed)
        for name in self.only:
            if name not in self.methods:
                raise ValueError(f"only={list(self.only)}: {name!r} is not among the methods")
        for method, rates in self.learning_rates.items():
            if not rates or min(rates) <= 0:
                raise ValueError(f"learning_rates.{method}={list(rates)} must be above 0")
        space = self.parsed_space()
        keys = [dimension.key for dimension in space.dimensions]
        for key in keys:
            if key.partition(".")[0] in FIXED:
                raise ValueError(f"{key} is in space, and is the same for all trials of a sweep")
        if self.search == "optuna" and len(self.methods) > 1:
            raise ValueError("search=optuna has one study: put method into space, not into methods")
        if self.fewer_parameters and (self.search, self.scheduler) != ("optuna", "none"):
            raise ValueError(
                f"fewer_parameters has search={self.search} and scheduler={self.scheduler}; it "
                "takes search=optuna, and scheduler=none, as others would stop small settings"
            )
        if self.search != "grid" and not keys:
            raise ValueError(f"search={self.search} has an empty space; name keys under tune.space")
        if self.learning_rates and LEARNING_RATE in keys:
            raise ValueError(f"{LEARNING_RATE} is in both space and learning_rates; remove one")
        if self.methods and "method" in keys:
            raise ValueError("method is in space, and methods names some too; remove one")
        if "seed" in keys:
            raise ValueError("seed is in space; seeds are averaged: name them under tune.seeds")
        ranges = [d.key for d in space.dimensions if d.values and d.kind not in ("grid", "choice")]
        if self.search == "grid" and ranges:
            raise ValueError(
                f"space.{ranges[0]} is a range, of which a grid has no end; use search=random, or "
                "list its values"
            )
        if self.scheduler == "pbt":
            self.pbt.check(space, self.search, self.seeds, len(self.only or self.methods))

    def parsed_space(self) -> Space:
        """The space; ConfigError names the key that is wrong."""
        return parse_space(self.space)

    def rule(self, tasks: int) -> Rule:
        """What ends trials of so many tasks while they run; a population's end between rounds."""
        kind = "none" if self.scheduler == "pbt" else self.scheduler
        return Rule(kind, self.grace_tasks, self.reduction, tasks)

    def rates_for(self, label: str, method: str) -> tuple[float, ...]:
        """The learning rates to choose from for a method, by the name it is tried under first."""
        known = (self.learning_rates.get(key) for key in (label, method, DEFAULT))
        return next((rates for rates in known if rates is not None), ())


def tune_config(values: Mapping[str, Any]) -> TuneConfig:
    """The sweep that a composed config describes.

    Raises ConfigError when it has no `tune` section, or naming what is wrong in it.
    """
    section = values.get("tune")
    if section is None:
        raise ConfigError(
            "nothing to sweep over: choose a group such as tune=lpi, or experiment=compare"
        )
    if not isinstance(section, Mapping):
        raise ConfigError(f"tune={section!r} must be a section; see configs/tune")
    return parse_dataclass(TuneConfig, section, "tune")
