"""Saved adapters on a benchmark's test splits, without training and without Ray."""

import torch

from system.config.parse import parse_dataclass
from system.config.schema import ExperimentConfig, InputConfig
from system.data.shards.manifest import JOINED, Manifest, SplitHandle
from system.engine.model_stage import show_nothing
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, StorageError
from system.objectives.objective import OBJECTIVES, Worker
from system.results.accuracy_matrix import AccuracyMatrix
from system.storage.adapters import HEADER, AdapterFolder, require_same_backbone
from system.storage.files import Folder
from system.storage.run_directory import RunDirectory
from system.stream.learned_state import LearnedState


def evaluate_adapters(experiment: ExperimentConfig, manifest: Manifest) -> AccuracyMatrix:
    """The last row of the accuracy matrix, and zero-shot, computed anew from saved adapters.

    The adapters are those of `adapters`, or of the run directory if that is null. Raises
    StorageError when there are none, AdapterMismatchError for another backbone or sizes,
    ConfigError when the benchmark lacks a task they were learned on.
    """
    folder = experiment.adapters or RunDirectory.of(experiment).adapters.uri
    # As a worker does: sums depend on the number of threads.
    torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
    group = WorkerGroup(
        rank=0, size=1, device=torch.device("cuda" if experiment.cluster.gpu else "cpu")
    )
    adapters = AdapterFolder(Folder.of(folder))
    header = adapters.header()
    tasks = header.tasks
    if experiment.stream.joined and tasks != (JOINED,):
        raise ConfigError(
            f"the adapters in {folder} were learned on tasks {list(tasks)}, not on all of them "
            "joined, as stream.joined=true asks; what an earlier promptide left as stage=alignment "
            "is not read any more: train it again under another run_name"
        )

    def open_test(task: int, split: str | None = None) -> SplitHandle:
        return manifest.task(tasks[task]).handle(split or experiment.evaluation.splits[0])

    objective = OBJECTIVES.get(experiment.stage.objective)
    inputs = parse_dataclass(InputConfig, header.inputs, f"{folder}: {HEADER}: inputs")
    work = objective.work(Worker(experiment, inputs, group, open_test, show_nothing))
    require_same_backbone(header, work.model.name, work.model.fingerprint)
    learned = LearnedState(header, work.model, work.build_method(header))
    learned.load(adapters, adapters.count())
    learned.method.to(group.device)
    count = learned.known_tasks
    if not count:
        raise StorageError(f"{folder} holds no task's adapter yet; let the run commit one first")
    if learned.method.trains_on == "all" and count < len(tasks):
        raise StorageError(
            f"{folder} holds {count} of {len(tasks)} tasks, and method "
            f"{learned.header.method['name']!r} learns at the last one; let the run come to its end"
        )
    known = {entry.name for entry in manifest.tasks}
    missing = [task for task in tasks if task not in known]
    if missing:
        raise ConfigError(
            f"the adapters in {folder} were learned on tasks {missing}, which benchmark "
            f"{manifest.benchmark!r} has not; choose the benchmark they belong to"
        )

    work.add_tests(len(tasks))
    rows = work.evaluation.zero_shot()
    rows += work.evaluation.after_task(count - 1, learned.method, learned.router)
    return AccuracyMatrix(tasks, rows)
