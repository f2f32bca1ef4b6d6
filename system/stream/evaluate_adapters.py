"""Saved adapters, or the frozen model, on a benchmark's splits: without training, without Ray."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from system.config.parse import parse_dataclass
from system.config.schema import ExperimentConfig, Gallery, InputConfig
from system.data.shards.manifest import JOINED, Manifest, SplitHandle
from system.diff_prompt.latent_source import OTHER
from system.engine.cards import own_device
from system.engine.model_stage import Show, show_nothing
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, DataError, StorageError
from system.objectives.objective import OBJECTIVES, OpenTest, StreamWork, Worker
from system.results.accuracy_matrix import ROUTE, AccuracyMatrix
from system.storage.adapters import HEADER, AdapterFolder, AdapterHeader, require_same_backbone
from system.storage.files import Folder
from system.storage.run_directory import RunDirectory
from system.stream.learned_state import LearnedState, header_of
from system.stream.preflight import asked_tasks, check_splits, require_split, stream_tasks
from system.stream.settled import precision_of, with_precision


@dataclass(frozen=True)
class Evaluated:
    """Saved adapters, or the frozen model alone, evaluated on the leading split of a benchmark."""

    experiment: ExperimentConfig
    manifest: Manifest
    header: AdapterHeader
    adapters: str | None  # where they are; None: there are none, the method trains nothing
    learned: LearnedState[Any]
    work: StreamWork  # its evaluation is the one that `matrix` is of
    matrix: AccuracyMatrix
    notes: tuple[str, ...] = ()  # lines for the terminal

    @property
    def trained(self) -> int:
        """The row of the matrix that is not the frozen model's alone: its last one."""
        return self.matrix.trained[-1]


def evaluate_adapters(experiment: ExperimentConfig, manifest: Manifest) -> AccuracyMatrix:
    """The matrix of `evaluated_adapters`."""
    return evaluated_adapters(experiment, manifest).matrix


def evaluated_adapters(
    experiment: ExperimentConfig, manifest: Manifest, show: Show = show_nothing
) -> Evaluated:
    """The last row of the accuracy matrix, and zero-shot, computed anew from saved adapters.

    The adapters are those of `adapters`, or of the run directory if that is null. On another
    benchmark than theirs what is evaluated are its tasks (see `AccuracyMatrix.held_out`): a sample
    searches all of them, or its own under evaluation.gallery=task, and is routed among the tasks
    that were learned, if the method has a router. Raises StorageError when there are no adapters,
    AdapterMismatchError for another backbone or sizes, ConfigError when their own benchmark lacks a
    task they were learned on or the other one the split, DataError where it has nothing to judge
    by.
    """
    folder = experiment.adapters or RunDirectory.of(experiment).adapters.uri
    adapters = AdapterFolder(Folder.of(folder))
    header = adapters.header()
    transfer = experiment.benchmark.name != header.benchmark
    evaluated = stream_tasks(experiment, manifest) if transfer else header.tasks
    if not transfer:
        _check_tasks(experiment, manifest, header, folder)
    open_test = _opener(experiment, manifest, evaluated)
    objective = OBJECTIVES.get(experiment.stage.objective)
    for split in experiment.evaluation.splits:
        require_split(experiment, manifest, split)
    if transfer:
        parts = [part for task in range(len(evaluated)) for part in open_test(task).members]
        every = SplitHandle.joined(parts, manifest.benchmark)
        if nothing := objective.check_test(experiment, every):
            raise DataError(nothing)
    header = _with_own_generator(header) if transfer else header
    of_adapters = replace(experiment, seed=header.seed) if transfer else experiment
    inputs = parse_dataclass(InputConfig, header.inputs, f"{folder}: {HEADER}: inputs")
    worker = _worker(of_adapters, inputs, open_test, show)
    precision = precision_of(header, worker.group.device)
    work = objective.work(replace(worker, experiment=with_precision(of_adapters, precision)))
    require_same_backbone(header, work.model.name, work.model.fingerprint)
    learned = LearnedState(header, work.model, work.build_method(header))
    learned.load(adapters, adapters.count())
    learned.method.to(work.worker.group.device)
    count = learned.known_tasks
    if not count:
        raise StorageError(f"{folder} holds no task's adapter yet; let the run commit one first")
    if learned.method.trains_on == "all" and count < len(header.tasks):
        raise StorageError(
            f"{folder} holds {count} of {len(header.tasks)} tasks, and method "
            f"{learned.header.method['name']!r} learns at the last one; let the run come to its end"
        )
    if transfer:
        gallery: Gallery = "task" if experiment.evaluation.gallery == "task" else "all"
        work.evaluation = work.evaluation_of(open_test, len(evaluated), gallery)
    else:
        work.add_tests(len(evaluated), later=True)
    # First, as it finds the frozen model's features with those that it needs.
    after = work.evaluation.after_task(count - 1, learned.method, learned.router)
    rows = work.evaluation.zero_shot() + after
    if transfer:
        rows = [row for row in rows if not row.metric.startswith(ROUTE)]  # no route is right
    matrix = AccuracyMatrix(header.tasks, rows, evaluated if transfer else None)
    return Evaluated(experiment, manifest, header, folder, learned, work, matrix)


def evaluated_frozen(
    experiment: ExperimentConfig, manifest: Manifest, show: Show = show_nothing
) -> Evaluated:
    """The frozen model on a benchmark, for a method that trains nothing: no run is needed.

    All tasks count that the config asks for, also those without anything to train on. Raises
    ConfigError or DataError for a split that the benchmark has not, or that judges no task.
    """
    tasks = asked_tasks(experiment, manifest)
    notes = check_splits(experiment, manifest, tasks)
    objective = OBJECTIVES.get(experiment.stage.objective)
    work = objective.work(
        _worker(experiment, experiment.inputs, _opener(experiment, manifest, tasks), show)
    )
    header = header_of(experiment, work.model, manifest.fingerprint, tasks)
    learned = LearnedState(header, work.model, work.build_method(header))
    notes += objective.check_inputs(experiment, manifest, tasks, work.model)
    work.add_tests(len(tasks))
    rows = work.evaluation.zero_shot()
    rows += work.evaluation.after_task(len(tasks) - 1, learned.method, None)
    matrix = AccuracyMatrix(tasks, rows)
    return Evaluated(experiment, manifest, header, None, learned, work, matrix, tuple(notes))


def evaluated_on(
    experiment: ExperimentConfig, manifest: Manifest, show: Show = show_nothing
) -> Evaluated:
    """`evaluated_frozen` for a method that trains nothing, unless adapters are named."""
    kind = OBJECTIVES.get(experiment.stage.objective).method_kind(experiment)
    if kind.trains_on == "nothing" and experiment.adapters is None:
        return evaluated_frozen(experiment, manifest, show)
    return evaluated_adapters(experiment, manifest, show)


def _worker(
    experiment: ExperimentConfig, inputs: InputConfig, open_test: OpenTest, show: Show
) -> Worker:
    """This process as the only worker."""
    # As a worker does: sums depend on the number of threads.
    torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
    device = own_device(
        experiment.cluster.gpu,
        "`promptide evaluate` computes here; send it to a node that has one (`promptide submit "
        "evaluate ... submit.entrypoint.gpus=1`)",
    )
    group = WorkerGroup(rank=0, size=1, device=device)
    return Worker(experiment, inputs, group, open_test, show)


def _opener(experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]) -> OpenTest:
    def open_test(task: int, split: str | None = None) -> SplitHandle:
        return manifest.task(tasks[task]).handle(split or experiment.evaluation.splits[0])

    return open_test


def _check_tasks(
    experiment: ExperimentConfig, manifest: Manifest, header: AdapterHeader, folder: str
) -> None:
    """Whether the adapters' own benchmark has the tasks that they were learned on."""
    if experiment.stream.joined and header.tasks != (JOINED,):
        raise ConfigError(
            f"the adapters in {folder} were learned on tasks {list(header.tasks)}, not on all of "
            "them joined, as stream.joined=true asks; what an earlier promptide left as "
            "stage=alignment is not read any more: train it again under another run_name"
        )
    known = {entry.name for entry in manifest.tasks}
    missing = [task for task in header.tasks if task not in known]
    if missing:
        raise ConfigError(
            f"the adapters in {folder} were learned on tasks {missing}, which benchmark "
            f"{manifest.benchmark!r} has not; choose the benchmark they belong to"
        )


def _with_own_generator(header: AdapterHeader) -> AdapterHeader:
    """The same with latents from the generator of the adapters' own benchmark, if there are any."""
    generator = header.method.get("generator")
    if not isinstance(generator, dict) or generator.get(OTHER) is not None:
        return header
    own = {**generator, OTHER: header.benchmark}
    return replace(header, method={**header.method, "generator": own})
