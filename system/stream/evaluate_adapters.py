"""Saved adapters on a benchmark's test splits, without training and without Ray."""

from dataclasses import replace

import torch

from system.config.parse import parse_dataclass
from system.config.schema import ExperimentConfig, Gallery, InputConfig
from system.data.shards.manifest import JOINED, Manifest, SplitHandle
from system.diff_prompt.latent_source import OTHER
from system.engine.model_stage import show_nothing
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, DataError, StorageError
from system.objectives.objective import OBJECTIVES, Worker
from system.results.accuracy_matrix import ROUTE, AccuracyMatrix
from system.storage.adapters import HEADER, AdapterFolder, AdapterHeader, require_same_backbone
from system.storage.files import Folder
from system.storage.run_directory import RunDirectory
from system.stream.learned_state import LearnedState
from system.stream.preflight import require_split, stream_tasks


def evaluate_adapters(experiment: ExperimentConfig, manifest: Manifest) -> AccuracyMatrix:
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
    # As a worker does: sums depend on the number of threads.
    torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
    group = WorkerGroup(
        rank=0, size=1, device=torch.device("cuda" if experiment.cluster.gpu else "cpu")
    )
    adapters = AdapterFolder(Folder.of(folder))
    header = adapters.header()
    transfer = experiment.benchmark.name != header.benchmark
    evaluated = stream_tasks(experiment, manifest) if transfer else header.tasks
    if not transfer:
        _check_tasks(experiment, manifest, header, folder)

    def open_test(task: int, split: str | None = None) -> SplitHandle:
        name = evaluated[task]
        return manifest.task(name).handle(split or experiment.evaluation.splits[0])

    objective = OBJECTIVES.get(experiment.stage.objective)
    if transfer:
        require_split(experiment, manifest, experiment.evaluation.splits[0])
        parts = [part for task in range(len(evaluated)) for part in open_test(task).members]
        every = SplitHandle.joined(parts, manifest.benchmark)
        if nothing := objective.check_test(experiment, every):
            raise DataError(nothing)
    header = _with_own_generator(header) if transfer else header
    of_adapters = replace(experiment, seed=header.seed) if transfer else experiment
    inputs = parse_dataclass(InputConfig, header.inputs, f"{folder}: {HEADER}: inputs")
    work = objective.work(Worker(of_adapters, inputs, group, open_test, show_nothing))
    require_same_backbone(header, work.model.name, work.model.fingerprint)
    learned = LearnedState(header, work.model, work.build_method(header))
    learned.load(adapters, adapters.count())
    learned.method.to(group.device)
    count = learned.known_tasks
    if not count:
        raise StorageError(f"{folder} holds no task's adapter yet; let the run commit one first")
    if learned.method.trains_on == "all" and count < len(header.tasks):
        raise StorageError(
            f"{folder} holds {count} of {len(header.tasks)} tasks, and method "
            f"{learned.header.method['name']!r} learns at the last one; let the run come to its end"
        )
    if not transfer:
        work.add_tests(len(evaluated))
        rows = work.evaluation.zero_shot()
        rows += work.evaluation.after_task(count - 1, learned.method, learned.router)
        return AccuracyMatrix(header.tasks, rows)
    gallery: Gallery = "task" if experiment.evaluation.gallery == "task" else "all"
    evaluation = work.evaluation_of(open_test, len(evaluated), gallery)
    rows = evaluation.zero_shot()
    rows += evaluation.after_task(count - 1, learned.method, learned.router)
    recalls = [row for row in rows if not row.metric.startswith(ROUTE)]  # no route is right
    return AccuracyMatrix(header.tasks, recalls, evaluated)


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
