"""Retrieval as a stream's objective: images and captions in one space, recall both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from torch import Tensor
from typing_extensions import override

from system.backbones.computation import placed
from system.backbones.dual_encoder import DualEncoder, load_backbone
from system.config.schema import ExperimentConfig, Gallery
from system.data.shards.loading import read_texts, require_captions, sample_counts
from system.data.shards.manifest import Manifest, SplitHandle
from system.data.shards.pixel_cache import PixelCache
from system.engine.encoding import Encoder
from system.engine.loader_threads import loader_threads
from system.errors import ConfigError, DataError
from system.methods.base import method_class
from system.methods.sharing import MethodKind, StreamMethod, method_kind
from system.objectives.objective import (
    NameFeatures,
    OpenTest,
    StreamObjective,
    StreamWork,
    TaskRouter,
    Worker,
    fitting_method,
    saved_method,
)
from system.objectives.retrieval.retrieval_evaluation import StreamEvaluation, TestSet
from system.objectives.retrieval.retrieval_examples import retrieval_examples
from system.objectives.retrieval.retrieval_rank_table import retrieval_rank_table
from system.objectives.retrieval.retrieval_training import LEAST, RetrievalTraining
from system.objectives.task_training import LeasedTask
from system.results.accuracy_matrix import plain_row
from system.results.recall import METRICS
from system.storage.adapters import AdapterHeader
from system.storage.data_directory import DataDirectory
from system.storage.feature_store import FeatureStore
from system.storage.run_directory import EXAMPLES


class RetrievalWork(StreamWork):
    """A dual encoder on this worker."""

    examples_file = EXAMPLES
    model: DualEncoder
    evaluation: StreamEvaluation

    def __init__(self, worker: Worker) -> None:
        experiment = worker.experiment
        self.worker = worker
        method = method_class(experiment.method["name"], "retrieval")
        backbone = load_backbone(experiment.backbone)
        self.model = placed(backbone, worker.group.device, whole=method.trains_weights)
        # The released code routes on features of the same random crops that it trains on; here
        # as there, one evaluation transform serves router and test.
        image_transform = backbone.image_transform(worker.inputs)
        self.transform = str(image_transform)
        self.image_transform = image_transform
        self.encoder = Encoder(
            backbone,
            worker.group,
            experiment.evaluation.batch_size,
            loader_threads(experiment.stage, worker.note),
            inputs=worker.inputs,
            cache=self._pixel_cache(),
        )
        self.router_placeholders = 0
        self.store = FeatureStore(DataDirectory.of(experiment).store("features"), worker.note)
        self.evaluation = self._own_evaluation(0)

    def _pixel_cache(self) -> PixelCache | None:
        return PixelCache.wanted(
            self.worker.experiment.stage.cache_gb,
            self.image_transform.cache_key,
            self.model.shape.image_bytes,
            self.worker.note,
        )

    def _own_evaluation(self, tasks: int) -> StreamEvaluation:
        gallery = self.worker.experiment.evaluation.gallery
        return self._evaluation(self.worker.open_test, tasks, gallery)

    def _evaluation(self, open_test: OpenTest, tasks: int, gallery: Gallery) -> StreamEvaluation:
        return StreamEvaluation(
            TestSet.read(open_test, tasks),
            self.encoder,
            self.image_transform,
            gallery,
            open_test,
            self.router_placeholders,
        )

    @override
    def build_method(self, header: AdapterHeader) -> StreamMethod:
        method = saved_method(header, self.model)
        if self.worker.inputs.router_placeholders:
            self.router_placeholders = method.placeholders
            self.evaluation = self._own_evaluation(0)
        return method

    @override
    def add_tests(self, count: int, *, later: bool = False) -> None:
        # Those of a whole stream have one entry in the store.
        if self.evaluation.tasks == 0 and count > 1:
            self.evaluation = self._own_evaluation(count)
            key = self._key(self.evaluation.tests.handles)
            self.evaluation.prepare(self.store, key, later=later)
            return
        for _ in range(count):
            self.evaluation.add_task(self.store, self._key)

    @override
    def evaluation_of(self, open_test: OpenTest, tasks: int, gallery: Gallery) -> StreamEvaluation:
        evaluation = self._evaluation(open_test, 0, gallery)
        for _ in range(tasks):
            evaluation.add_task(self.store, self._key)
        return evaluation

    @override
    def training_features(self, handle: SplitHandle) -> tuple[Tensor, Tensor]:
        # The texts are the captions.
        key = self._key([handle])
        group, store = self.worker.group, self.store
        if group.broadcast(store.find(key) is not None if group.leads else None):
            found = store.find(key)
            assert found is not None, f"feature store lost {key}"
            return found["vision"], found["text"]
        # A cache of its own: test images stay in use, and these only until the task is learned.
        encoder = replace(self.encoder, cache=self._pixel_cache())
        images = encoder.images(handle, range(handle.rows), self.image_transform, None)
        captions = [caption for row in read_texts(handle) for caption in row]
        texts = self.encoder.texts(captions, None, self.router_placeholders)
        if group.leads:
            store.put(key, {"vision": images, "text": texts})
        return images, texts

    @override
    def training(
        self,
        lease: LeasedTask,
        method: StreamMethod,
        similarity: Tensor,
        open_train: Callable[[], SplitHandle],
        show: Callable[[dict[str, Any]], None],
    ) -> RetrievalTraining:
        group, experiment = self.worker.group, self.worker.experiment
        similarity = similarity.to(group.device)
        note = self.worker.note
        return RetrievalTraining(
            experiment, lease, method, self.model, group, similarity, open_train, show, note
        )

    @override
    def examples(self, tasks: Sequence[str]) -> pa.Table:
        return retrieval_examples(self.evaluation, tasks, self.worker.open_test)

    @override
    def ranks(self, tasks: Sequence[str]) -> pa.Table:
        return retrieval_rank_table(self.evaluation, tasks)

    @override
    def outcome(self, method: StreamMethod, router: TaskRouter | None) -> dict[str, Any]:
        """The frozen backbone in the galleries that tasks have before they are learned."""
        before = self.evaluation.zero_shot_before()
        return {"zero_shot_before": before and [plain_row(row) for row in before]}

    def _key(self, handles: Sequence[SplitHandle]) -> str:
        return self.encoder.feature_key(handles, self.router_placeholders)


class RetrievalObjective(StreamObjective):
    """Image-text retrieval on a dual encoder."""

    recalls = METRICS

    @override
    def method_kind(self, experiment: ExperimentConfig) -> MethodKind:
        return method_kind(experiment.method, "retrieval")

    @override
    def check(self, experiment: ExperimentConfig) -> tuple[DualEncoder, StreamMethod]:
        if experiment.stream.joined or len(experiment.evaluation.splits) > 1:
            raise ConfigError(
                "stream.joined=true and several splits under evaluation.split are for "
                "stage.objective=grounding; method=joint trains on all retrieval tasks at once"
            )
        if experiment.stage.cache_gb is not None and experiment.inputs.pixels == "processor":
            raise ConfigError(
                f"stage.cache_gb={experiment.stage.cache_gb:g} keeps bytes, of which "
                "inputs.pixels=processor has none: set inputs.pixels=fast, or stage.cache_gb=null"
            )
        if experiment.stage.kept_gb is not None:
            raise ConfigError(
                f"stage.kept_gb={experiment.stage.kept_gb:g} keeps what a grounder's towers give, "
                "which is for stage.objective=grounding; set it to null"
            )
        backbone = load_backbone(experiment.backbone)
        method = fitting_method(experiment.method, experiment.seed, backbone)
        backbone.image_transform(experiment.inputs, experiment.stage.augmentation)
        backbone.tokenize(["a"], method.placeholders)
        return backbone, method

    @override
    def check_training(
        self, experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]
    ) -> dict[str, int]:
        trains_on = self.method_kind(experiment).trains_on
        for name in tasks:
            require_captions(manifest.task(name).handle("train"))
        over = experiment.stage.epoch_over
        rows = {
            name: sum(sample_counts(manifest.task(name).handle("train"), over)) for name in tasks
        }
        if trains_on == "all":
            rows = {" + ".join(tasks): sum(rows.values())}
        stage, workers = experiment.stage, experiment.cluster.workers
        return {
            name: stage.batch_for(name, count, workers, of=over, least=LEAST)
            for name, count in rows.items()
            if trains_on != "nothing"
        }

    @override
    def check_test(self, experiment: ExperimentConfig, handle: SplitHandle) -> str | None:
        if handle.rows == 0:
            raise DataError(
                f"task {handle.task!r} has no image in split {handle.split!r}; choose "
                "another evaluation.split, or leave the task out by benchmark.tasks"
            )
        require_captions(handle)
        return None

    @override
    def names(self, experiment: ExperimentConfig) -> NameFeatures:
        backbone = load_backbone(experiment.backbone)
        return backbone.name_features

    @override
    def work(self, worker: Worker) -> RetrievalWork:
        return RetrievalWork(worker)


OBJECTIVE = RetrievalObjective()
