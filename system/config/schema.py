"""The experiment's dataclasses: everything that a run depends on, as plain checked values."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from system.config.parse import parse_dataclass
from system.errors import ConfigError, DataError, OnError
from system.uris import absolute, expanded

MAX_SEED = 2**32 - 1  # what NumPy's and PyTorch's generators both take, with room for strides
Precision = Literal["auto", "fp32", "bf16"]  # of a frozen model; auto: see config.precision
#: Of the learning rate: towards 0 after the last step, or epoch by epoch, or not at all.
Schedule = Literal["cosine", "cosine_epochs", "constant"]
TextPadding = Literal["context", "longest"]  # what a batch of texts is padded to
SizeRule = Literal["squeeze", "shortest"]  # how a grounder's images are resized
#: How a level of a dynamic head is brought to a finer one's size, and what routes an image.
Upsampling = Literal["bilinear", "nearest"]
RoutingFeature = Literal["level_means", "coarsest"]
EpochOver = Literal["images", "captions"]  # of retrieval: what an epoch has a sample for each of
Augmentation = Literal["none", "crop_flip"]  # crop_flip: a random crop, half of them mirrored
#: How an image becomes a dual encoder's input; see `InputConfig`.
PixelPath = Literal["processor", "fast", "vector"]
SmallTasks = Literal["shrink", "stop"]  # at a task of fewer samples than the batch
Gallery = Literal["all", "seen", "task"]  # what a query is searched in: of all tasks, or some
OrderPolicy = Literal["given", "reversed", "shuffled", "similarity"]  # see system.stream.task_order
Config = TypeVar("Config", bound="FrozenModelConfig")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which dataset, how it is prepared, and which of its tasks in which order."""

    name: str
    dataset: str  # a registered dataset: see system/data/datasets
    options: dict[str, Any]  # that dataset's own settings
    tasks: tuple[str, ...] | None = None  # null: all of them in the dataset's order
    order: OrderPolicy = "given"  # how a stream orders them; see system.stream.task_order
    similarity: str | None = None  # a file of the tasks' similarities, by path or URI
    held_out: tuple[str, ...] = ()  # prepared benchmarks that are evaluated and never trained

    def __post_init__(self) -> None:
        if len(set(self.held_out)) != len(self.held_out):
            raise ValueError(f"held_out={list(self.held_out)} names a benchmark twice")


@dataclass(frozen=True)
class FrozenModelConfig:
    """Which kind of model, a hub id or a local directory to load it from, how it computes."""

    name: str
    path: str
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    pretrain: dict[str, Any] | None = None  # for models that `promptide pretrain` can make

    def with_absolute_path(self: Config) -> Config:
        """The same with a local path made absolute: a Ray worker has another working directory."""
        if expanded(self.path).exists():
            return replace(self, path=absolute(self.path))
        return self


def with_absolute_model_paths(section: Any) -> Any:
    """A config's section in which the local paths of frozen models, at any depth, are absolute."""
    if not isinstance(section, Mapping):
        return section
    made = {key: with_absolute_model_paths(value) for key, value in section.items()}
    path = made.get("path")
    if isinstance(path, str) and isinstance(made.get("name"), str):
        made["path"] = FrozenModelConfig(made["name"], path).with_absolute_path().path
    return made


@dataclass(frozen=True)
class BackboneConfig(FrozenModelConfig):
    """A dual encoder. `text_padding`: see `Computation`."""

    text_padding: TextPadding = "context"


@dataclass(frozen=True)
class SelectionConfig:
    """Which of a grounder's boxes are candidates, beside what its own files say.

    Those with a score of words above `threshold`: of each level of its pyramid the best
    `candidates_per_level`, or of all levels together as many as its files say (null).
    """

    threshold: float = 0.0
    candidates_per_level: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold={self.threshold} must be at least 0 and below 1")
        if self.candidates_per_level is not None and self.candidates_per_level < 1:
            raise ValueError(f"candidates_per_level={self.candidates_per_level} must be at least 1")


@dataclass(frozen=True)
class ImageSizeConfig:
    """The size that a grounder's images are brought to; None: as the checkpoint's files have it.

    `rule` squeeze: to `side` x `side` pixels, whatever the aspect ratio was; shortest: to a
    shortest side of `side`, or less where the longest would be above `longest`.
    """

    rule: SizeRule | None = None
    side: int | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        for name in ("side", "longest"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")

    def over(self, rule: SizeRule, side: int, longest: int) -> tuple[SizeRule, int, int]:
        """What holds over a checkpoint's own rule, side and longest side.

        Raises ConfigError for a longest side that is of no use, or below the shortest.
        """
        rule, side = self.rule or rule, self.side or side
        if rule == "squeeze" and self.longest is not None:
            raise ConfigError(
                f"grounder.images.longest={self.longest} is of no use to images that are squeezed "
                "to a square; set grounder.images.rule=shortest, or longest to null"
            )
        longest = self.longest or longest
        if rule == "shortest" and longest < side:
            raise ConfigError(
                f"grounder.images: the longest side, {longest}, is below the shortest, {side}; set "
                "grounder.images.longest"
            )
        return rule, side, longest


@dataclass(frozen=True)
class GrounderConfig(FrozenModelConfig):
    """A grounder.

    `images`, `upsampling` and `routing_feature` are parts of its fingerprint: an adapter fits those
    that it was learned with. `upsampling` is that of the dynamic head of a GLIP, None: as its files
    have it. `routing_feature`: see `Grounder.routing_features`.

    `positive_words`: which words of an expression name its object, in loss and score: those of the
    spans that a data set's files give, where they do, or all. `tokenizer`: of a file of published
    weights, which holds none, the hub id or local directory of BERT's; None: bert-base-uncased.
    """

    selection: SelectionConfig = field(default_factory=SelectionConfig)
    positive_words: Literal["spans", "all"] = "spans"
    images: ImageSizeConfig = field(default_factory=ImageSizeConfig)
    tokenizer: str | None = None
    upsampling: Upsampling | None = None
    routing_feature: RoutingFeature = "level_means"

    def with_absolute_path(self) -> "GrounderConfig":
        """The same with both local paths made absolute."""
        config = super().with_absolute_path()
        if self.tokenizer is not None and expanded(self.tokenizer).is_dir():
            return replace(config, tokenizer=absolute(self.tokenizer))
        return config


CAPTION = "{caption}"  # its place in a text template


@dataclass(frozen=True)
class InputConfig:
    """How images and captions are brought to a dual encoder, in training, routing and evaluation.

    `resize` squeeze brings the whole image to the model's square, without its processor's crop.
    With `evaluation_augmentation` crop_flip a test image is cropped and mirrored at random as well,
    by a seed of its own pixels. With `router_placeholders` the texts that tell a task have the room
    for a prompt in them too. `normalisation` imagenet is LPI's released code's, as are a
    `text_template` that ends with a full stop, router_placeholders and the random crops.

    `pixels` processor is the checkpoint's image processor. fast gives the same pixels from bytes
    that are normalised on the device; vector resizes them by vector instructions, one byte in 200
    one of 255 levels apart from the processor's and one in 500,000 two. Both stand for the
    processors that `Uint8Transform` knows; any other one is used all the same.
    """

    normalisation: Literal["checkpoint", "imagenet"] = "checkpoint"
    resize: Literal["checkpoint", "squeeze"] = "checkpoint"
    evaluation_augmentation: Augmentation = "none"
    text_template: str = CAPTION
    router_placeholders: bool = False
    pixels: PixelPath = "processor"

    def __post_init__(self) -> None:
        if CAPTION not in self.text_template:
            raise ValueError(f"text_template={self.text_template!r} has no place for {CAPTION}")

    def text(self, caption: str) -> str:
        """The text that stands for a caption."""
        return self.text_template.replace(CAPTION, caption)

    @property
    def feature_settings(self) -> dict[str, Any]:
        """What features depend on, for the key of stored ones: those of before are found again."""
        settings = asdict(self)
        if self.pixels == "processor":
            del settings["pixels"]
        return settings


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser of what is trained; the defaults are ours, on the embedded benchmark."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9  # SGD only
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")


@dataclass(frozen=True)
class StageConfig:
    """How a task is trained. `batch_size` is the global batch, whatever the number of workers.

    The batch is cut into `micro_batches` equal parts, each one forward pass; workers share them.
    Which samples meet in a batch, and rounding, depend on this number, and not on the number of
    workers as long as it divides `micro_batches`. Under auto it is the number of workers that the
    run begins with.

    Loss and gradient are looked at every `check_every` steps, and before each checkpoint; auto: at
    every step on a CPU, every 25 on a GPU. No result depends on it.
    """

    epochs: int
    batch_size: int
    micro_batches: int | Literal["auto"]
    optimiser: OptimiserConfig
    loader_threads: int | Literal["auto"]  # auto: see `system.engine.loader_threads`
    schedule: Schedule = "cosine"  # of the learning rate
    small_tasks: SmallTasks = "shrink"  # where a task does not fill a batch; see `batch_for`
    objective: str = "retrieval"  # what is learned: a registered StreamObjective
    epoch_over: EpochOver = "images"
    gradient_norm: float | None = None  # the most that a step's gradient may have; null: no bound
    augmentation: Augmentation = "none"
    shuffle_buffer: int = 2048  # of retrieval: encoded images a worker holds while it shuffles
    train_expressions: int | None = None  # of grounding: a subsample of each task; null: all
    grounding_loss_weight: float = 1.0  # of the grounder's losses beside a method's own terms
    kept_gb: float | None = None  # of grounding: outputs of frozen towers on a node's disk
    on_error: OnError = "stop"  # at a training image that does not decode
    checkpoint_steps: int | None = None  # inside an epoch; null: a checkpoint after each alone
    cache_gb: float | None = None  # of retrieval: pixels kept on a node's disk; null: none
    check_every: int | Literal["auto"] = "auto"  # steps

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "micro_batches",
            "shuffle_buffer",
            "loader_threads",
            "train_expressions",
            "checkpoint_steps",
            "check_every",
        ):
            value = getattr(self, name)
            if value is not None and value != "auto" and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.cache_gb is not None and not self.cache_gb > 0:
            raise ValueError(f"cache_gb={self.cache_gb} must be above 0, or null for no cache")
        if self.kept_gb is not None and not self.kept_gb > 0:
            raise ValueError(f"kept_gb={self.kept_gb} must be above 0, or null to keep nothing")
        if not 0 < self.grounding_loss_weight < math.inf:
            raise ValueError(f"grounding_loss_weight={self.grounding_loss_weight} must be above 0")
        if self.gradient_norm is not None and not self.gradient_norm > 0:
            raise ValueError(f"gradient_norm={self.gradient_norm} must be above 0, or null")

    def micro_batches_for(self, workers: int) -> int:
        """The least multiple of `micro_batches` that the workers can share equally."""
        least = self.micro_batches if isinstance(self.micro_batches, int) else 1
        return math.lcm(least, max(workers, 1))

    def batch_for(self, task: str, count: int, workers: int, *, of: str, least: int = 1) -> int:
        """The global batch of a task that trains on `count` samples: `batch_size` if it fills one.

        Else the most of them that its micro-batches can share, under `small_tasks="shrink"`. `of`
        says what the samples are. Raises DataError naming a task that has fewer than a sample a
        micro-batch, fewer than `least`, or under "stop" fewer than `batch_size`.
        """
        if count >= self.batch_size:
            return self.batch_size
        pieces = self.micro_batches_for(workers)
        fits = count // pieces * pieces
        has = f"task {task!r} has {count} training {of}, fewer than"
        if fits < least or not fits:
            few = -(-max(least, 1) // pieces) * pieces
            raise DataError(
                f"{has} the {few} of the smallest batch (stage.micro_batches={self.micro_batches}, "
                f"cluster.workers={workers}): give it more, or leave the task out by "
                "benchmark.tasks"
            )
        if self.small_tasks == "stop":
            raise DataError(
                f"{has} the batch of {self.batch_size}: lower stage.batch_size to {fits}, or let "
                "small tasks have smaller batches by stage.small_tasks=shrink"
            )
        return fits


@dataclass(frozen=True)
class EvaluationConfig:
    """How the stream is evaluated after each task, and on which split of the benchmark.

    "val" is for choosing settings; it is then open for all tasks, and "test" for none. Of several
    splits, which grounding takes, the first one leads; the others are judged once, at the end.
    """

    split: str | tuple[str, ...]
    gallery: Gallery
    batch_size: int
    router_centers: int
    expressions: int | None = None  # of grounding: a subsample of each task; null: all

    def __post_init__(self) -> None:
        if "train" in self.splits:
            raise ValueError("split='train' is what tasks learn from; evaluate on val or test")
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise ValueError(f"split={list(self.splits)} must name at least one, and none twice")
        for name in ("batch_size", "router_centers", "expressions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits that are judged; the first one leads."""
        return (self.split,) if isinstance(self.split, str) else self.split


LEAST_STALL, LEAST_COLLECTIVE = 10, 60  # seconds


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
    stall_seconds: float | None = None  # without a move of any worker; None: not watched
    collective_timeout: int | None = None  # seconds; None: Ray Train's half an hour

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must be at least 0")
        if self.stall_seconds is not None and self.stall_seconds < LEAST_STALL:
            raise ValueError(
                f"stall_seconds={self.stall_seconds:g} must be at least {LEAST_STALL}: workers say "
                "once a second where they are; null for none"
            )
        if self.collective_timeout is not None and self.collective_timeout < LEAST_COLLECTIVE:
            raise ValueError(
                f"collective_timeout={self.collective_timeout} must be at least "
                f"{LEAST_COLLECTIVE}: workers of a live stream wait a third of that in one "
                "collective; null for Ray Train's"
            )
        if not self.cpus_per_worker > 0:
            raise ValueError(f"cpus_per_worker={self.cpus_per_worker} must be above 0")
        if self.max_failures < -1:
            raise ValueError(
                f"max_failures={self.max_failures} must be at least 0, or -1 for no limit"
            )


@dataclass(frozen=True)
class StreamConfig:
    """How the stream hands out the benchmark's tasks.

    A live stream starts with `benchmark.tasks`, which may be none, and ends once it is closed. A
    joined one has a single task: all of `benchmark.tasks` at once.
    """

    live: bool = False
    max_pending: int = 100  # tasks of a live stream that may wait
    joined: bool = False

    def __post_init__(self) -> None:
        if self.live and self.joined:
            raise ValueError(
                "live=true and joined=true: all tasks of a stream that grows are never there to "
                "be joined; set one of them to false"
            )
        if self.max_pending < 1:
            raise ValueError(f"max_pending={self.max_pending} must be at least 1")


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
class BaseExperiment:
    """The part of the config that all runs have: of a stream, or of a model's training."""

    run_name: str
    storage_path: str
    data_path: str
    seed: int
    benchmark: BenchmarkConfig
    cluster: ClusterConfig
    loggers: tuple[str, ...] = field(default=(), kw_only=True)  # beside TensorBoard
    cache_path: str | None = field(default=None, kw_only=True)  # null: in data_path

    def __post_init__(self) -> None:
        check_name_and_seed(self.run_name, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict that gives the same experiment again: for workers and for config.yaml."""
        return asdict(self)

    def completed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values of an earlier version's config.yaml, with the defaults of what they lack.

        Values that are none of this kind of experiment come back as they are.
        """
        try:
            return parse_dataclass(type(self), values, "config").to_dict()
        except ConfigError:
            return values


@dataclass(frozen=True)
class ExperimentConfig(BaseExperiment):
    """Everything that learning a stream of tasks depends on."""

    #: Whether the released code's settings were asked for; see `system.config.protocol`.
    protocol: Literal["corrected", "released"]
    backbone: BackboneConfig
    method: dict[str, Any]
    stage: StageConfig
    evaluation: EvaluationConfig
    inputs: InputConfig = field(default_factory=InputConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    adapters: str | None = None  # what `evaluate` loads; null: the run's own
    grounder: GrounderConfig | None = None  # what a grounding stream learns on, or `pretrain` makes

    def __post_init__(self) -> None:
        super().__post_init__()
        pieces = self.stage.micro_batches_for(self.cluster.workers)
        if self.stage.batch_size % pieces:
            raise ConfigError(
                f"stage.batch_size={self.stage.batch_size} cannot be cut into {pieces} equal "
                f"micro-batches (stage.micro_batches={self.stage.micro_batches}, "
                f"cluster.workers={self.cluster.workers}); choose a multiple of {pieces}"
            )
        if not isinstance(self.method.get("name"), str):
            raise ConfigError("method.name is missing; choose a method group, such as method=lpi")
        if self.stream.joined and self.benchmark.order != "given":
            raise ConfigError(
                f"benchmark.order={self.benchmark.order}: a stream with stream.joined=true has one "
                "task, which nothing orders; leave it given"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ExperimentConfig":
        """Parse a plain mapping. Raises ConfigError naming the field."""
        return parse_dataclass(cls, values, "config")

    def with_absolute_paths(self) -> "ExperimentConfig":
        """The same with local paths made absolute: a Ray worker has another working directory."""
        benchmark = self.benchmark
        if benchmark.similarity is not None:
            benchmark = replace(benchmark, similarity=absolute(benchmark.similarity))
        return replace(
            self,
            storage_path=absolute(self.storage_path),
            data_path=absolute(self.data_path),
            cache_path=self.cache_path and absolute(self.cache_path),
            adapters=self.adapters and absolute(self.adapters),
            benchmark=benchmark,
            backbone=self.backbone.with_absolute_path(),
            method=with_absolute_model_paths(self.method),
            grounder=self.grounder and self.grounder.with_absolute_path(),
        )
