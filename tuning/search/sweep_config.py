"""The config of a sweep: the section `tune`, and the metric that trials are compared by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from system.config.parse import parse_dataclass
from system.config.schema import check_seed
from system.errors import ConfigError
from tuning.run.pruner import PruningRule
from tuning.search.population import PbtConfig
from tuning.search.space import Space, parse_space

DEFAULT = "default"  # the entry of `learning_rates` for methods without an entry of their own
LEARNING_RATE = "stage.optimiser.learning_rate"
MOST_PER_GPU = 100  # of trials; each has a process with its own copy of the frozen model
# Keys that the sweep sets itself, or that all its trials share:
FIXED = ("run_name", "storage_path", "data_path", "cache_path", "cluster", "tune", "experiment")


@dataclass(frozen=True)
class TuneConfig:
    """The section `tune`: the search space, the search, and the scheduler that stops trials.

    Attributes:
        space: keys and their values, see `tuning.search.space`.
        methods: method -> its overrides; empty: the experiment's method.
        only: names of `methods` to try; empty: all of them.
        base: label of the trial config that tables compare the others with; None: the best one.
        seeds: each trial config runs once per seed; scores are means over seeds.
        search: "grid" tries every point of listed values; "random" draws `samples` points (crossed
            with the keys of kind `grid`); with "optuna" TPE proposes `samples` points.
        samples: see `search`.
        search_seed: seed of random draws.
        fewer_parameters: Optuna also minimises the number of trainable parameters.
        scheduler: "none"; "asha" or "median" (`tuning.run.pruner`); "pbt"
            (`tuning.search.population`).
        grace_tasks: number of tasks that every trial may finish.
        reduction: ASHA keeps one in `reduction` trials, after grace_tasks x reduction^k tasks.
        pbt: options of population based training.
        metric: the metrics whose mean is maximised: recalls of a stream, or a model's own.
        max_concurrent: trials at a time; null: as many as the cluster's CPUs (GPUs) allow.
        trials_per_gpu: trials at a time on each GPU, which share its memory and arithmetic; above 1
            each trains in its own process (cluster.workers=0).
        learning_rates: method (or "default") -> rates, of which the best on the validation split of
            the stream's first tasks is used; empty: the config's own rate.
        rate_tasks: number of tasks that a rate is chosen on, learned in sequence.
        rate_widenings: how often a list of rates goes on beyond an end that was the best of it.
    """

    space: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, tuple[str, ...]] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    base: str | None = None
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
    trials_per_gpu: int = 1
    learning_rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    rate_tasks: int = 2
    rate_widenings: int = 2

    def __post_init__(self) -> None:
        for name, least in (
            ("samples", 1),
            ("grace_tasks", 1),
            ("reduction", 2),
            ("rate_tasks", 1),
            ("rate_widenings", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ValueError(f"max_concurrent={self.max_concurrent} must be at least 1")
        if not 1 <= self.trials_per_gpu <= MOST_PER_GPU:
            raise ValueError(
                f"trials_per_gpu={self.trials_per_gpu} must be from 1 to {MOST_PER_GPU}"
            )
        for name in ("seeds", "metric"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)} must name at least one, and none twice")
        for seed in self.seeds:
            check_seed(seed)
        for name in self.only:
            if name not in self.methods:
                raise ValueError(f"only={list(self.only)}: {name!r} is not among the methods")
        if self.base is not None and self.methods and self.base not in (self.only or self.methods):
            raise ValueError(f"base={self.base!r} is not among the methods that are tried")
        for method, rates in self.learning_rates.items():
            if not rates or min(rates) <= 0:
                raise ValueError(f"learning_rates.{method}={list(rates)} must be above 0")
        space = self.parsed_space()
        keys = [dimension.key for dimension in space.dimensions]
        for key in keys:
            if key.partition(".")[0] in FIXED:
                raise ValueError(f"{key} is in space, but must be the same for all trials")
        if self.search == "optuna" and len(self.methods) > 1:
            raise ValueError("search=optuna has one study: put method into space, not into methods")
        if self.fewer_parameters and (self.search, self.scheduler) != ("optuna", "none"):
            raise ValueError(
                f"fewer_parameters has search={self.search} and scheduler={self.scheduler}; it "
                "takes search=optuna, and scheduler=none, as others would stop small methods"
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
                f"space.{ranges[0]} is a range, which a grid cannot enumerate; use "
                "search=random, or list its values"
            )
        if self.scheduler == "pbt":
            self.pbt.check(space, self.search, self.seeds, len(self.only or self.methods))

    def parsed_space(self) -> Space:
        """The search space. Raises ConfigError naming the wrong key."""
        return parse_space(self.space)

    def rule(self, tasks: int) -> PruningRule:
        """The rule that stops running trials; those of a population end between rounds instead."""
        kind = "none" if self.scheduler == "pbt" else self.scheduler
        return PruningRule(kind, self.grace_tasks, self.reduction, tasks)

    def rates_for(self, label: str, method: str) -> tuple[float, ...]:
        """Rates to choose from: of the label in `methods`, else of the method, else the default."""
        known = (self.learning_rates.get(key) for key in (label, method, DEFAULT))
        return next((rates for rates in known if rates is not None), ())


@dataclass(frozen=True)
class SweepMetric:
    """The score that a sweep maximises: the mean of `tune.metric`, as tables and charts name it.

    Attributes:
        kind: name of the trials' kind, see `tuning.run.trial_kind`.
        name: such as `average recall`.
        unit: such as `%`; may be empty.
        tasks: number of tasks of a trial.
    """

    kind: str
    name: str
    unit: str
    tasks: int

    @classmethod
    def of(cls, sweep: Mapping[str, Any]) -> "SweepMetric":
        """As described in sweep.json."""
        score = sweep["figure"]
        return cls(sweep["kind"], score["name"], score["unit"], len(sweep["tasks"]))

    @property
    def heading(self) -> str:
        """The name with a capital, unless it is a key."""
        return self.name.capitalize() if " " in self.name else self.name

    @property
    def title(self) -> str:
        """Name and unit, for an axis or a column."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def axis(self, when: str) -> str:
        """Title of an axis of scores at one time: `average recall at the end, %`."""
        return f"{self.name} {when}, {self.unit}" if self.unit else f"{self.name} {when}"

    def after(self, tasks: int) -> str:
        """The time of a score after so many tasks, in words."""
        if tasks == self.tasks:
            return "at the end"
        return f"after {tasks} of {self.tasks} tasks"

    def number(self, score: float) -> str:
        """A score in as many digits as tell trials apart."""
        return f"{score:.2f}" if self.unit else f"{score:.4g}"

    def text(self, score: float) -> str:
        """A score with its unit."""
        return f"{self.number(score)} {self.unit}".rstrip()


def counted(tasks: int) -> str:
    """`1 task`, `2 tasks`."""
    return "1 task" if tasks == 1 else f"{tasks} tasks"


def tune_config(values: Mapping[str, Any]) -> TuneConfig:
    """The section `tune` of a composed config.

    Raises ConfigError if there is none, or naming the wrong field.
    """
    section = values.get("tune")
    if section is None:
        raise ConfigError(
            "nothing to sweep over: choose a group such as tune=lpi, or experiment=compare"
        )
    if not isinstance(section, Mapping):
        raise ConfigError(f"tune={section!r} must be a section; see configs/tune")
    return parse_dataclass(TuneConfig, section, "tune")
