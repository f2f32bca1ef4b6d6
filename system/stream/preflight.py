"""Checks of a run before anything expensive starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from system.config.schema import ExperimentConfig
from system.data.prepare.origin import require_origin
from system.data.shards.manifest import JOINED, Manifest
from system.data.shards.sound_shards import require_sound_shards
from system.errors import ConfigError, DataError
from system.loggers.run_loggers import check_loggers
from system.objectives.objective import OBJECTIVES
from system.storage.adapters import HEADER, AdapterFolder, require_same_backbone
from system.storage.data_directory import DataDirectory
from system.storage.run_directory import RunDirectory
from system.stream.given_similarity import KINDS, given_similarity
from system.stream.held_out import check_held_out
from system.stream.task_order import TaskOrder


@dataclass(frozen=True)
class Checked:
    """Result of the checks: the prepared benchmark, the order of the tasks, what to know of them.

    `notes` are lines for the terminal.
    """

    manifest: Manifest
    tasks: tuple[str, ...]
    notes: tuple[str, ...] = ()


def check_experiment(experiment: ExperimentConfig) -> Checked:
    """Load and compare everything that a run will need.

    Raises ConfigError, DataError or AdapterMismatchError naming the field or file: a benchmark that
    is not prepared, tasks it has not, fewer images than the batch, a backbone that does not load,
    a method that does not fit it, adapters in the run directory that belong to another backbone, a
    logger that is not installed.
    """
    check_loggers(experiment)
    manifest = prepared(experiment)
    require_sound_shards(manifest)
    live = experiment.stream.live
    given = stream_tasks(experiment, manifest)
    skipped = [name for name in asked_tasks(experiment, manifest) if name not in given]
    notes = check_tasks(experiment, manifest, given)
    if skipped:
        named = ", ".join(map(repr, skipped))
        notes = (f"skipped, as they have nothing to train on: tasks {named}", *notes)
    objective = OBJECTIVES.get(experiment.stage.objective)
    backbone, method = objective.check(experiment)
    notes += objective.check_inputs(experiment, manifest, given, backbone)
    similarity = given_similarity(experiment)
    if similarity is None and method.similarity_source == "matrix":
        raise ConfigError(
            "method.task_contrast.source=matrix needs the matrix: benchmark.similarity=FILE, a "
            f"{KINDS} with a row and a column a task"
        )
    notes += () if similarity is None else similarity.notes
    adapters = AdapterFolder(RunDirectory.of(experiment).adapters)
    if adapters.folder.exists(HEADER):
        require_same_backbone(adapters.header(), backbone.name, backbone.fingerprint)
    if live:  # ordered when it starts and at each append: see actors.live
        return Checked(manifest, given, notes)
    return Checked(manifest, stream_order(experiment, given).order(given), notes)


def stream_order(experiment: ExperimentConfig, tasks: Sequence[str]) -> TaskOrder:
    """How the stream orders these tasks: by `benchmark.order`, and the seed or a similarity.

    That is the given one, or else that of the names to the frozen model, which is loaded for it.
    """
    policy = experiment.benchmark.order
    if policy != "similarity":
        return TaskOrder(policy, experiment.seed)
    similarity = given_similarity(experiment)
    if similarity is not None:
        return TaskOrder(policy, alike=similarity.between)
    names = OBJECTIVES.get(experiment.stage.objective).names(experiment)
    features = dict(zip(tasks, names(tasks), strict=True))
    return TaskOrder(policy, alike=lambda one, other: float(features[one] @ features[other]))


def check_tasks(
    experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]
) -> tuple[str, ...]:
    """Whether the run can learn and evaluate these tasks; lines on what is unusual about them.

    Raises DataError naming the task, or a split in which none of them has anything to judge by,
    ConfigError for a split that the benchmark has not, or for a method that needs the whole stream
    at its start where the stream is live.
    """
    objective = OBJECTIVES.get(experiment.stage.objective)
    if experiment.stream.live and objective.method_kind(experiment).trains_on == "all":
        raise ConfigError(
            f"stream.live=true: method {experiment.method['name']!r} trains on all tasks at once, "
            "which a stream that grows never has; give it a stream.live=false run"
        )
    similarity = given_similarity(experiment)
    if similarity is not None:
        similarity.require(tasks)
    batches = objective.check_training(experiment, manifest, tasks)
    notes = check_splits(experiment, manifest, tasks)
    check_held_out(experiment, manifest, tasks)
    full = experiment.stage.batch_size
    small = [f"{batch} for {task!r}" for task, batch in batches.items() if batch < full]
    if small:
        listed = ", ".join(small)
        notes.append(f"smaller batches than stage.batch_size={full}, as tasks are small: {listed}")
    return tuple(notes)


def check_splits(
    experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]
) -> list[str]:
    """Whether each split of `evaluation.split` judges any task; lines on tasks that one does not.

    Raises ConfigError for a split that the benchmark has not, DataError where none of the tasks
    has anything in it.
    """
    objective = OBJECTIVES.get(experiment.stage.objective)
    notes = []
    for split in experiment.evaluation.splits:
        require_split(experiment, manifest, split)
        handles = [manifest.task(name).handle(split) for name in tasks]
        empty = {h.task: why for h in handles if (why := objective.check_test(experiment, h))}
        if empty and len(empty) == len(tasks):
            raise DataError(
                f"no task has anything to judge by in split {split!r}: {next(iter(empty.values()))}"
            )
        if empty:
            named = ", ".join(map(repr, empty))
            notes.append(
                f"not judged by split {split!r}, as they have nothing there: tasks {named}"
            )
    return notes


def require_split(experiment: ExperimentConfig, manifest: Manifest, split: str) -> None:
    """Raises ConfigError for a split of `evaluation.split` that the benchmark has not."""
    known = dict.fromkeys(name for task in manifest.tasks for name in task.splits)
    if split not in known:
        others = [name for name in known if name != "train"]
        several = ""
        if len(others) > 1 and experiment.stage.objective == "grounding":
            several = (
                f", or several, such as evaluation.split=[{','.join(others)}]: the first one "
                "leads, the others are judged once at the end"
            )
        raise ConfigError(
            f"evaluation.split={split}: benchmark {manifest.benchmark!r} has no such split, only "
            f"{', '.join(others)}; set one of them{several}"
        )


def prepared(experiment: ExperimentConfig) -> Manifest:
    """The manifest of the prepared benchmark, its files checked against it.

    With the joined task, if the stream is one of it. Raises DataError with the command that
    prepares it.
    """
    benchmark = experiment.benchmark
    folder = DataDirectory.of(experiment).benchmark(benchmark.name)
    manifest = Manifest.prepared(folder, benchmark.name)
    require_origin(manifest, benchmark.dataset, benchmark.options, folder.uri)
    manifest.verify()
    return manifest.joined(experiment.benchmark.tasks) if experiment.stream.joined else manifest


def stream_tasks(experiment: ExperimentConfig, manifest: Manifest) -> tuple[str, ...]:
    """The tasks that the stream is given, before they are ordered.

    Those that nobody named and that have nothing to train on are left out, as in LPI's released
    code. Raises ConfigError, DataError if that leaves none.
    """
    asked = asked_tasks(experiment, manifest)
    if experiment.stream.joined or experiment.benchmark.tasks is not None:
        return asked
    objective = OBJECTIVES.get(experiment.stage.objective)
    given = tuple(name for name in asked if objective.trainable(manifest.task(name)))
    if asked and not given:
        raise DataError(
            f"no task of benchmark {manifest.benchmark!r} has anything to train on by "
            f"stage.objective={experiment.stage.objective}; choose another benchmark or objective"
        )
    return given


def asked_tasks(experiment: ExperimentConfig, manifest: Manifest) -> tuple[str, ...]:
    """The tasks that the config asks for. Raises ConfigError."""
    if experiment.stream.joined:
        return (JOINED,)
    return manifest.order(experiment.benchmark.tasks, growing=experiment.stream.live)
