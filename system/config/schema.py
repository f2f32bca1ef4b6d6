"""From Hydra's configs and a user's overrides to one frozen dataclass."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from system.config.frozen_models import BackboneConfig, GrounderConfig
from system.config.parse import parse_dataclass
from system.data.shards.faults import OnError
from system.engine.optimisation import OptimiserConfig
from system.errors import ConfigError
from system.results.recall import Gallery
from system.storage.files import Folder, absolute
from system.stream.given_similarity import GivenSimilarity
from system.stream.task_order import OrderPolicy
from system.stream.task_source import StreamConfig

CONFIG_DIRECTORY = Path(__file__).resolve().parents[2] / "configs"
MAX_SEED = 2**32 - 1  # what NumPy's and PyTorch's generators both take, with room for strides


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which dataset, how it is prepared, and which of its tasks in which order."""

    name: str
    dataset: str  # a registered dataset: see system/data
    options: dict[str, Any]  # that dataset's own settings
    tasks: tuple[str, ...] | None = None  # null: all of them in the dataset's order
    order: OrderPolicy = "given"  # how a stream orders them; see system.stream.task_order
    similarity: str | None = None  # a file of the tasks' similarities, by path or URI

    def given_similarity(self) -> GivenSimilarity | None:
        """The similarities of the file, if there is one; see `GivenSimilarity.read`."""
        return None if self.similarity is None else GivenSimilarity.read(self.similarity)


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
    loader_threads: int
    objective: str = "retrieval"  # what is learned: a registered StreamObjective
    augmentation: str = "none"
    shuffle_buffer: int = 2048  # of retrieval: encoded images a worker holds while it shuffles
    train_expressions: int | None = None  # of grounding: of each task, spread; null: all
    on_error: OnError = "stop"  # at a training image that does not decode

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "micro_batches",
            "shuffle_buffer",
            "loader_threads",
            "train_expressions",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")

    def micro_batches_for(self, workers: int) -> int:
        """The least multiple of `micro_batches` that the workers can share equally."""
        return math.lcm(self.micro_batches, max(workers, 1))


@dataclass(frozen=True)
class EvaluationConfig:
    """How the stream is evaluated after each task, and on which split of the benchmark.

    "val" is for choosing settings; it is then open for all tasks, and "test" for none.
    """

    split: str
    gallery: Gallery
    batch_size: int
    router_centers: int
    expressions: int | None = None  # of grounding: of each task, spread over its split; null: all

    def __post_init__(self) -> None:
        if self.split == "train":
            raise ValueError("split='train' is what tasks learn from; evaluate on val or test")
        for name in ("batch_size", "router_centers", "expressions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")


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
    placement: Literal["PACK", "SPREAD"] = "PACK"  # workers on few nodes, or on many

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must be at least 0")
        if not self.cpus_per_worker > 0:
            raise ValueError(f"cpus_per_worker={self.cpus_per_worker} must be above 0")
        if self.max_failures < -1:
            raise ValueError(
                f"max_failures={self.max_failures} must be at least 0, or -1 for no limit"
            )


def check_name_and_seed(run_name: str, seed: int) -> None:
    """Raises ConfigError for a run name that is no folder's, or a seed out of bounds."""
    if not run_name or "/" in run_name or run_name.startswith("."):
        raise ConfigError(f"run_name={run_name!r} must be a plain folder name")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Raises ConfigError for a seed out of bounds."""
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed={seed} must be from 0 to {MAX_SEED}")


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
    stream: StreamConfig = field(default_factory=StreamConfig)
    adapters: str | None = None  # what `evaluate` loads; null: the run's own
    loggers: tuple[str, ...] = ()  # beside TensorBoard: see system/loggers
    grounder: GrounderConfig | None = None  # what a grounding stream learns on, or `pretrain` makes

    def __post_init__(self) -> None:
        check_name_and_seed(self.run_name, self.seed)
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
        benchmark = self.benchmark
        if benchmark.similarity is not None:
            benchmark = replace(benchmark, similarity=absolute(benchmark.similarity))
        return replace(
            self,
            storage_path=absolute(self.storage_path),
            data_path=absolute(self.data_path),
            adapters=self.adapters and absolute(self.adapters),
            benchmark=benchmark,
            backbone=self.backbone.with_absolute_path(),
            grounder=self.grounder and self.grounder.with_absolute_path(),
        )

    def benchmark_folder(self) -> Folder:
        """Where the prepared task shards of the benchmark lie."""
        return Folder.of(self.data_path).child(self.benchmark.name)

    def feature_folder(self) -> Folder:
        """Where unprompted features are kept, shared by all runs."""
        return Folder.of(self.data_path).child("features")


def compose(overrides: Sequence[str], file: str | None = None) -> ExperimentConfig:
    """The config of a command from its Hydra overrides, or from a resolved config's file.

    Raises ConfigError for what Hydra cannot compose: an unknown key, group or option.
    """
    return experiment_of(composed_values(overrides, file))


def experiment_of(values: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment of composed values; the section `tune` belongs to sweeps alone."""
    sections = {key: value for key, value in values.items() if key != "tune"}
    return ExperimentConfig.from_dict(sections).with_absolute_paths()


def _check_keys(overrides: Sequence[str]) -> None:
    values = composed_values(overrides)
    if "name" not in values["stage"]:  # a model's stage checks its own keys later
        experiment_of(values)


def composed_values(
    overrides: Sequence[str],
    file: str | None = None,
    root: str = "config",
    parse: Callable[[Sequence[str]], object] = _check_keys,
) -> dict[str, Any]:
    """All that the configs say, resolved, as a plain mapping; see `compose`.

    Without a file it starts from configs/`root`.yaml, whose keys `parse` knows. With one, such as a
    run's config.yaml or a sweep's best.yaml, it starts from there and the overrides are values,
    since its groups are chosen already.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for override in overrides:
        if "=" not in override[1:] and not override.startswith("~"):
            raise ConfigError(f"{override!r} is no override; write key=value, such as seed=1")
    if file is not None:
        return _values_of_file(file, overrides)
    # Keys of `tune` that no YAML names are checked by the section's own dataclass.
    overrides = [f"++{text}" if text.startswith("tune.") else text for text in overrides]
    try:
        with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
            composed = hydra_compose(root, overrides=list(overrides))
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        forced = [
            f"++{override}" if unknown and override.partition("=")[0] == unknown[1] else override
            for override in overrides
        ]
        if forced != list(overrides):
            parse(forced)  # our own message for an unknown key is the better one
        raise ConfigError(_explain(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _values_of_file(file: str, overrides: Sequence[str]) -> dict[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.load(Path(file).expanduser())
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(f"--config {file} cannot be read: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"--config {file} holds no config; give a run's config.yaml")
    groups = {path.name for path in CONFIG_DIRECTORY.iterdir() if path.is_dir()}
    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            if override.key_or_group in groups:
                raise ConfigError(
                    f"{override.input_line}: with --config the groups are chosen already; "
                    f"override values, such as {override.key_or_group}.KEY=value"
                )
            if override.is_delete():
                raise ConfigError(f"{override.input_line}: with --config nothing can be removed")
            OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(_explain(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


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
