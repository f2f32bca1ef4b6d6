"""Saved adapters on a benchmark's test splits, without training and without Ray."""

import torch

from system.config import ExperimentConfig
from system.data.manifest import Manifest, SplitGrant
from system.errors import ConfigError, StorageError
from system.evaluation.accuracy_matrix import AccuracyMatrix
from system.stages.encoding import Encoder
from system.stages.learned_stream import LearnedStream
from system.stages.stream_evaluation import StreamEvaluation, TestSet
from system.stages.worker_group import WorkerGroup
from system.storage.feature_store import FeatureStore
from system.storage.run_directory import RunDirectory


def evaluate_adapters(experiment: ExperimentConfig, manifest: Manifest) -> AccuracyMatrix:
    """The last row of the accuracy matrix, and zero-shot, computed anew from saved adapters.

    The adapters are those of `adapters`, or of the run directory if that is null. Raises
    StorageError when there are none, AdapterMismatchError for another backbone or sizes,
    ConfigError when the benchmark lacks a task they were learned on.
    """
    folder = experiment.adapters or RunDirectory.of(experiment).adapters.uri
    loaded = experiment.backbone.load()
    # As a worker does: sums depend on the number of threads.
    torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
    device = torch.device("cuda" if experiment.cluster.gpu else "cpu")
    backbone = loaded.to(device)
    learned = LearnedStream.from_pretrained(folder, backbone)
    learned.method.to(device)
    tasks, count = learned.header.tasks, learned.known_tasks
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

    def open_test(task: int) -> SplitGrant:
        return manifest.task(tasks[task]).grant(experiment.evaluation.split)

    encoder = Encoder(
        backbone,
        WorkerGroup(rank=0, size=1, device=device),
        experiment.evaluation.batch_size,
        experiment.stage.loader_threads,
    )
    tests = TestSet.read(open_test, len(tasks))
    evaluation = StreamEvaluation(
        tests,
        encoder,
        backbone.image_transform(learned.header.protocol, "none"),
        experiment.evaluation.gallery,
        open_test,
    )
    store = FeatureStore(experiment.feature_folder())
    evaluation.prepare(store, encoder.feature_key(learned.header.protocol, tests.grants))
    rows = evaluation.zero_shot()
    rows += evaluation.after_task(count - 1, learned.method, learned.router)
    return AccuracyMatrix(tasks, rows)
