"""The loop of a Ray Train worker over the whole task stream: lease, train, evaluate, commit."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from system.backbones.dual_encoder import BACKBONES, MODALITIES
from system.config import ExperimentConfig
from system.data.loading import read_texts
from system.data.manifest import SplitGrant
from system.evaluation.accuracy_matrix import MatrixRow
from system.evaluation.examples import retrieval_examples
from system.evaluation.router import Router
from system.prompts.method import METHODS, MethodSetting
from system.stages.encoding import Encoder
from system.stages.stream_evaluation import StreamEvaluation, TestSet
from system.stages.task_checkpoint import latest_checkpoint
from system.stages.task_source import Lease, TaskSource
from system.stages.task_training import TaskTraining
from system.stages.worker_group import WorkerGroup
from system.storage.adapters import (
    AdapterFolder,
    AdapterHeader,
    prefixed,
    require_same_backbone,
    under,
)
from system.storage.feature_store import FeatureStore
from system.storage.run_directory import EXAMPLES, OUTCOME, RunDirectory


@dataclass
class PhaseClock:
    """Seconds spent by phase since the last `take`."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's time to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds by phase; starts anew."""
        taken, self.seconds = self.seconds, {}
        return taken


def continual_loop(config: dict[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`.

    `config`: {"experiment": a plain dict for ExperimentConfig, "tasks": names in stream order,
    "stream": a TaskSource, "benchmark_fingerprint": str}. Ends when the stream has no more tasks;
    the last report carries the figures that only the end can tell.
    """
    worker = StreamWorker(
        ExperimentConfig.from_dict(config["experiment"]),
        tuple(config["tasks"]),
        config["stream"],
        config["benchmark_fingerprint"],
    )
    worker.restore()
    while (lease := worker.next_lease()) is not None:
        worker.learn(lease)
    worker.finish()


class StreamWorker:
    """One worker's state over the stream."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        tasks: tuple[str, ...],
        stream: TaskSource,
        benchmark_fingerprint: str,
    ) -> None:
        self.experiment = experiment
        self.tasks = tasks
        self.stream = stream
        self.group = WorkerGroup.join()
        self.clock = PhaseClock()
        self.consumer = experiment.run_name
        self.generation: int = self.group.broadcast(
            stream.register(self.consumer) if self.group.leads else None
        )
        backbone = BACKBONES.get(experiment.backbone.name)(experiment.backbone.resolved_path())
        self.backbone = backbone.to(self.group.device)
        setting = MethodSetting(backbone.shape, experiment.seed, experiment.protocol)
        self.method = METHODS.get(experiment.method["name"]).build(experiment.method, setting)
        # The released code routes on features of the same random crops that it trains on; here
        # as there, one evaluation transform serves router and test.
        self.transform = backbone.image_transform(experiment.protocol, "none")
        self.encoder = Encoder(
            backbone, self.group, experiment.evaluation.batch_size, experiment.stage.loader_threads
        )
        self.router = (
            Router(centers_per_task=experiment.evaluation.router_centers, seed=experiment.seed)
            if self.method.needs_router
            else None
        )
        self.directory = RunDirectory.of(experiment)
        self.adapters = AdapterFolder(self.directory.adapters)
        self.store = FeatureStore(experiment.feature_folder())
        self.header = AdapterHeader(
            backbone=backbone.name,
            backbone_fingerprint=backbone.fingerprint,
            method=dict(experiment.method),
            benchmark=experiment.benchmark.name,
            benchmark_fingerprint=benchmark_fingerprint,
            protocol=experiment.protocol,
            seed=experiment.seed,
            tasks=tasks,
            router={"centers": experiment.evaluation.router_centers},
        )
        self.earlier = latest_checkpoint()
        self.texts_of_tasks: list[Tensor] = []  # (P,) each: the mean text feature of a task
        self.evaluation = self._evaluation()

    def restore(self) -> None:
        """Load what earlier worker groups of this run committed."""
        payloads = self.group.broadcast(
            self.stream.committed(self.consumer) if self.group.leads else None
        )
        if not payloads:
            if self.group.leads:
                self.adapters.save_header(self.header)
            return
        header = self.adapters.header()
        require_same_backbone(header, self.backbone.name, self.backbone.fingerprint)
        for index in range(len(payloads)):
            state = self.adapters.task(index)
            self.method.load_task(index, under("method", state), self.backbone)
            if self.router is not None:
                centers = under("router", state)
                self.router.restore_task(index, {m: centers[m] for m in MODALITIES})
            self.texts_of_tasks.append(state["task_text"])

    def next_lease(self) -> Lease | None:
        """The task all ranks work on next; None at the end of the stream."""
        lease: Lease | None = self.group.broadcast(
            self.stream.lease(self.consumer, self.generation) if self.group.leads else None
        )
        return lease

    def learn(self, lease: Lease) -> None:
        """Train one task, evaluate all of them, save its adapter and commit it."""
        self._show("features", lease)
        with self.clock.phase("features"):
            images, texts = self._training_features(lease)
            self.texts_of_tasks.append(torch.nn.functional.normalize(texts.mean(0), dim=0))
            if self.router is not None:
                self._add_to_router(lease.index, images, texts)
        similarity = self.similarity()
        self.method.begin_task(lease.index, self.backbone)
        training = TaskTraining(
            self.experiment,
            lease,
            self.method,
            self.backbone,
            self.group,
            similarity.to(self.group.device),
            open_train=lambda: self._open(lease.task, "train"),
            show=lambda progress: self._show("train", lease, **progress),
        )
        with self.clock.phase("train"):
            training.run(self.earlier)
        self._show("evaluate", lease)
        rows: list[MatrixRow] = []
        with self.clock.phase("evaluate"):
            if lease.index == 0:
                rows += self.evaluation.zero_shot()
            rows += self.evaluation.after_task(lease.index, self.method, self.router)
        if self.group.leads:
            self._commit(lease, rows, training.log, similarity)

    def finish(self) -> None:
        """Figures with the true task given, and the examples of the report."""
        last = len(self.tasks) - 1
        with self.clock.phase("evaluate"):
            # Encodes nothing new, unless this worker group started after the last commit.
            self.evaluation.after_task(last, self.method, self.router)
            oracle = self.evaluation.oracle(last, self.method)
        if self.group.leads:
            self.directory.folder.write_table(
                EXAMPLES, retrieval_examples(self.evaluation, self.tasks, self._open_test)
            )
            self.directory.folder.write_json(
                OUTCOME,
                {
                    "backbone_fingerprint": self.backbone.fingerprint,
                    "captions_per_image": self.evaluation.tests.captions_per_image,
                    "transform": str(self.transform),
                    "routed": self.router is not None,
                    "oracle": [_plain(row) for row in oracle],
                    "trainable_parameters_per_task": self.method.parameters_per_task(),
                    "seconds": self.clock.take(),
                },
            )

    def similarity(self) -> Tensor:
        """Cosine similarity (K, K) of the tasks so far by the mean features of their captions."""
        stacked = torch.stack(self.texts_of_tasks)
        return stacked @ stacked.T

    def _training_features(self, lease: Lease) -> tuple[Tensor, Tensor]:
        """Unprompted features of the task's training images (I, P) and captions (T, P)."""
        grant = self._open(lease.task, "train")
        key = self._feature_key([grant])
        if self.group.broadcast(self.store.find(key) is not None if self.group.leads else None):
            found = self.store.find(key)
            assert found is not None, f"feature store lost {key}"
            return found["vision"], found["text"]
        images = self.encoder.images(grant, range(grant.rows), self.transform, None)
        captions = [caption for row in read_texts(grant) for caption in row]
        texts = self.encoder.texts(captions, None)
        if self.group.leads:
            self.store.put(key, {"vision": images, "text": texts})
        return images, texts

    def _add_to_router(self, index: int, images: Tensor, texts: Tensor) -> None:
        assert self.router is not None
        centers = None
        if self.group.leads:
            self.router.add_task(index, images, texts)
            centers = self.router.centers_of(index)
        centers = self.group.broadcast(centers)
        if not self.group.leads:
            self.router.restore_task(index, centers)

    def _commit(
        self, lease: Lease, rows: list[MatrixRow], log: list[dict[str, Any]], similarity: Tensor
    ) -> None:
        state = prefixed("method", self.method.task_parameters(lease.index))
        state["task_text"] = self.texts_of_tasks[lease.index]
        if self.router is not None:
            state |= prefixed("router", dict(self.router.centers_of(lease.index)))
        name = self.adapters.save_task(lease.index, state)
        payload = {
            "adapter": name,
            "rows": [_plain(row) for row in rows],
            "log": log,
            "similarity": similarity[lease.index].tolist(),
            "seconds": self.clock.take(),
        }
        self.stream.commit(self.consumer, self.generation, lease.task, payload)

    def _evaluation(self) -> StreamEvaluation:
        experiment = self.experiment
        tests = TestSet.read(self._open_test, len(self.tasks))
        evaluation = StreamEvaluation(
            tests, self.encoder, self.transform, experiment.evaluation.gallery, self._open_test
        )
        with self.clock.phase("features"):
            evaluation.prepare(self.store, self._feature_key(tests.grants))
        return evaluation

    def _open_test(self, task: int) -> SplitGrant:
        return self._open(self.tasks[task], "test")

    def _open(self, task: str, split: str) -> SplitGrant:
        return self.stream.open_split(self.consumer, self.generation, self.group.rank, task, split)

    def _feature_key(self, grants: Sequence[SplitGrant]) -> str:
        return FeatureStore.key(
            backbone=self.header.backbone_fingerprint,
            protocol=self.experiment.protocol,
            shards=[shard.sha256 for grant in grants for shard in grant.shards],
            # Rounding depends on the kernels, and these on the device and the block.
            device=self.group.device.type,
            block=self.encoder.block,
        )

    def _show(self, phase: str, lease: Lease, **progress: Any) -> None:
        if self.group.leads:
            place = {"task": lease.task, "task_index": lease.index, "tasks": len(self.tasks)}
            self.stream.post_progress(self.consumer, {"phase": phase, **place, **progress})


def _plain(row: MatrixRow) -> dict[str, Any]:
    """A matrix row as JSON can hold it: an undefined value is null."""
    values = asdict(row)
    return values | {"value": None if math.isnan(row.value) else row.value}
