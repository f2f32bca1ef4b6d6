"""From Hydra's configs and a user's overrides to one frozen dataclass."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from system.errors import ConfigError
from system.evaluation.recall import Gallery
from system.parsing import parse_dataclass
from system.stages.optimisation import OptimiserConfig
from system.storage.files import Folder
from system.storage.locations import absolute

CONFIG_DIRECTORY = Path(__file__).resolve().parent.parent / "configs"
MAX_SEED = 2**32 - 1  # what NumPy's and PyTorch's generators both take, with room for strides
SHIPPED_BACKBONES = Path(__file__).resolve().parent / "backbones"


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which dataset, how it is prepared, and which of its tasks in which order."""

    name: str
    dataset: str  # a registered dataset: see system/data
    options: dict[str, Any]  # that dataset's own settings
    tasks: tuple[str, ...] | None = None  # null: all of them in the dataset's order


@dataclass(frozen=True)
class BackboneConfig:
    """Which kind of backbone, and a hub id or a local directory to load it from."""

    name: str
    path: str
    pretrain: dict[str, Any] | None = None  # for backbones that `promptide pretrain` can make

    def resolved_path(self) -> str:
        """The path, `shipped:NAME` being a directory inside this package."""
        kind, _, name = self.path.partition(":")
        return str(SHIPPED_BACKBONES / name) if kind == "shipped" else self.path


@dataclass(frozen=True)
class StageConfig:
    """How a task is trained. `batch_size` is the global batch, whatever the number of workers.

    The batch is cut into `micro_batches` equal parts, each one forward pass; workers share them.
    Figures depend on this number only by rounding, and not on the number of workers at all as
    long as it divides `micro_batches`.
    """

    epochs: int
    batch_size: int
    micro_batches: int
    optimiser: OptimiserConfig
    augmentation: str
    shuffle_buffer: int
    loader_threads: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batches", "shuffle_buffer", "loader_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    def micro_batches_for(self, workers: int) -> int:
        """The least multiple of `micro_batches` that the workers can share equally."""
        return math.lcm(self.micro_batches, max(workers, 1))


@dataclass(frozen=True)
class EvaluationConfig:
    """How the stream is evaluated after each task."""

    gallery: Gallery
    batch_size: int
    router_centers: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "router_centers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class ClusterConfig:
    """Where it runs: a Ray address, and how many workers with what each.

    `workers: 0` trains in the driver's own process, without a worker group.
    """

    address: str | None
    workers: int
    cpus_per_worker: float
    gpu: bool
    max_failures: int

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must be at least 0")
        if not self.cpus_per_worker > 0:
            raise ValueError(f"cpus_per_worker={self.cpus_per_worker} must be above 0")
        if self.max_failures < -1:
            raise ValueError(
                f"max_failures={self.max_failures} must be at least 0, or -1 for no limit"
            )


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything a run depends on."""

    run_name: str
    storage_path: str
    data_path: str
    seed: int
    protocol: Literal["corrected", "published"]
    benchmark: BenchmarkConfig
    backbone: BackboneConfig
    method: dict[str, Any]
    stage: StageConfig
    evaluation: EvaluationConfig
    cluster: ClusterConfig
    adapters: str | None = None  # what `evaluate` loads; null: the run's own

    def __post_init__(self) -> None:
        if not self.run_name or "/" in self.run_name or self.run_name.startswith("."):
            raise ConfigError(f"run_name={self.run_name!r} must be a plain folder name")
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed={self.seed} must be from 0 to {MAX_SEED}")
        pieces = self.stage.micro_batches_for(self.cluster.workers)
        if self.stage.batch_size % pieces:
            raise ConfigError(
                f"stage.batch_size={self.stage.batch_size} cannot be cut into {pieces} equal "
                f"micro-batches (stage.micro_batches={self.stage.micro_batches}, "
                f"cluster.workers={self.cluster.workers}); choose a multiple of {pieces}"
            )
        if not isinstance(self.method.get("name"), str):
            raise ConfigError("method.name is missing; choose a method group, such as method=lpi")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ExperimentConfig":
        """Parse a plain mapping. Raises ConfigError naming the field."""
        return parse_dataclass(cls, values, "config")

    def to_dict(self) -> dict[str, Any]:
        """A plain dict that `from_dict` takes: for Ray workers and for config.yaml."""
        return asdict(self)

    def with_absolute_paths(self) -> "ExperimentConfig":
        """The same with local paths made absolute: a Ray worker has another working directory."""
        backbone = self.backbone
        if Path(backbone.path).expanduser().is_dir():
            backbone = replace(backbone, path=absolute(backbone.path))
        return replace(
            self,
            storage_path=absolute(self.storage_path),
            data_path=absolute(self.data_path),
            adapters=self.adapters and absolute(self.adapters),
            backbone=backbone,
        )

    def benchmark_folder(self) -> Folder:
        """Where the prepared task shards of the benchmark lie."""
        return Folder.of(self.data_path).child(self.benchmark.name)

    def feature_folder(self) -> Folder:
        """Where unprompted features are kept, shared by all runs."""
        return Folder.of(self.data_path).child("features")


def compose(overrides: Sequence[str]) -> ExperimentConfig:
    """The config of a command from its Hydra overrides.

    Raises ConfigError for what Hydra cannot compose: an unknown key, group or option.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for override in overrides:
        if "=" not in override[1:] and not override.startswith("~"):
            raise ConfigError(f"{override!r} is no override; write key=value, such as seed=1")
    try:
        with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(overrides))
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        forced = [
            f"++{override}" if unknown and override.partition("=")[0] == unknown[1] else override
            for override in overrides
        ]
        if forced != list(overrides):
            compose(forced)  # our own message for an unknown key is the better one
        raise ConfigError(_explain(error)) from error
    assert isinstance(values, dict)
    experiment = ExperimentConfig.from_dict({str(key): value for key, value in values.items()})
    return experiment.with_absolute_paths()


# `+key=value`, which Hydra proposes for an unknown key, is no remedy here: keys are fixed.
NOT_FOR_USERS = (
    "full_key:",
    "object_type=",
    "Set the environment",
    "To append to your config",
    "Config search path",
    "provider=",
    "See https:",
)


def _explain(error: Exception) -> str:
    """Hydra's message with its cause, without the parts that speak to programmers."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None:
        lines += [line for line in str(cause).splitlines() if line.strip()]
    keep = [
        line.strip() for line in dict.fromkeys(lines) if not line.strip().startswith(NOT_FOR_USERS)
    ]
    override = getattr(error, "override", None)  # what Hydra could not parse
    return f"config: {f'{override}: ' if override else ''}{' '.join(keep)}"
