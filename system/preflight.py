"""Checks of a run before anything expensive starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from system.backbones.dual_encoder import DualEncoder
from system.backbones.name_features import name_features
from system.config import ExperimentConfig
from system.data.loading import steps_per_epoch
from system.data.manifest import Manifest
from system.data.task_order import TaskOrder
from system.errors import ConfigError, DataError
from system.loggers.open_loggers import check_loggers
from system.prompts.method import METHODS, build_method
from system.storage.adapters import HEADER, AdapterFolder, require_same_backbone
from system.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Checked:
    """What the checks found: the prepared benchmark and the order of the tasks."""

    manifest: Manifest
    tasks: tuple[str, ...]


def check_experiment(experiment: ExperimentConfig) -> Checked:
    """Load and compare everything that a run will need.

    Raises ConfigError, DataError or AdapterMismatchError naming the field or file: a benchmark that
    is not prepared, tasks it has not, fewer images than the batch, a backbone that does not load,
    a method that does not fit it, adapters in the run directory that belong to another backbone, a
    logger that is not installed.
    """
    check_loggers(experiment)
    manifest = prepared(experiment)
    live = experiment.stream.live
    given = manifest.order(experiment.benchmark.tasks, growing=live)
    check_tasks(experiment, manifest, given)
    backbone = experiment.backbone.load()
    method = build_method(experiment.method, backbone.shape, experiment.seed, experiment.protocol)
    backbone.image_transform(experiment.protocol, experiment.stage.augmentation)
    backbone.tokenize(["a"], method.placeholders)
    similarity = experiment.benchmark.given_similarity()
    if similarity is None and method.similarity_source == "matrix":
        raise ConfigError(
            "method.task_contrast.source=matrix needs the matrix: benchmark.similarity=FILE, a "
            ".csv, .json or .parquet with a row and a column a task"
        )
    adapters = AdapterFolder(RunDirectory.of(experiment).adapters)
    if adapters.folder.exists(HEADER):
        require_same_backbone(adapters.header(), backbone.name, backbone.fingerprint)
    if live:  # ordered when it starts and at each append: see actors.live_stream
        return Checked(manifest, given)
    return Checked(manifest, stream_order(experiment, given, lambda: backbone).order(given))


def stream_order(
    experiment: ExperimentConfig, tasks: Sequence[str], backbone: Callable[[], DualEncoder]
) -> TaskOrder:
    """How the stream orders these tasks: by `benchmark.order`, and the seed or a similarity.

    That is the given one, or else that of the names to the frozen backbone, which `backbone` loads.
    """
    policy = experiment.benchmark.order
    if policy != "similarity":
        return TaskOrder(policy, experiment.seed)
    similarity = experiment.benchmark.given_similarity()
    if similarity is not None:
        return TaskOrder(policy, alike=similarity.between)
    features = dict(zip(tasks, name_features(backbone(), tasks), strict=True))
    return TaskOrder(policy, alike=lambda one, other: float(features[one] @ features[other]))


def check_tasks(experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]) -> None:
    """Whether the run can learn and evaluate these tasks.

    Raises DataError naming the task, ConfigError for a method that needs the whole stream at its
    start where the stream is live.
    """
    method = METHODS.get(experiment.method["name"]).method
    if experiment.stream.live and method.trains_on == "all":
        raise ConfigError(
            f"stream.live=true: method {experiment.method['name']!r} trains on all tasks at once, "
            "which a stream that grows never has; give it a stream.live=false run"
        )
    similarity = experiment.benchmark.given_similarity()
    if similarity is not None:
        similarity.require(tasks)
    _check_batches(experiment, manifest, tasks)
    for name in tasks:
        if manifest.task(name).grant(experiment.evaluation.split).rows == 0:
            raise DataError(
                f"task {name!r} has no image in split {experiment.evaluation.split!r}; choose "
                "another evaluation.split or prepare the benchmark again"
            )


def _check_batches(experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]) -> None:
    """Whether what the method trains on fills a batch."""
    trains_on = METHODS.get(experiment.method["name"]).method.trains_on
    rows = {name: manifest.task(name).grant("train").rows for name in tasks}
    if trains_on == "all":
        rows = {" + ".join(tasks): sum(rows.values())}
    pieces = experiment.stage.micro_batches_for(experiment.cluster.workers)
    for name, count in rows.items() if trains_on != "nothing" else ():
        steps_per_epoch(count, experiment.stage.batch_size, pieces, task=name)


def prepared(experiment: ExperimentConfig) -> Manifest:
    """The manifest of the prepared benchmark, its files checked against it.

    Raises DataError with the command that prepares it.
    """
    manifest = Manifest.prepared(experiment.benchmark_folder(), experiment.benchmark.name)
    manifest.verify()
    return manifest
