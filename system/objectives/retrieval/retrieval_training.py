"""Training of one leased task by the contrastive loss of images and their captions."""

from collections.abc import Callable, Generator, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from system.backbones.dual_encoder import DualEncoder
from system.config.schema import ExperimentConfig
from system.data.shards.loading import (
    MicroBatch,
    sample_counts,
    steps_per_epoch,
    training_batches,
)
from system.data.shards.manifest import SplitHandle
from system.data.shards.pixel_cache import PixelCache
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.loader_threads import loader_threads
from system.engine.worker_group import WorkerGroup
from system.methods.base import TaskBatch
from system.methods.sharing import StreamMethod
from system.objectives.task_training import LeasedTask, TaskTraining

LEAST = 2  # of a batch: one image alone has nothing that it is told from


class RetrievalTraining(TaskTraining):
    """A task's images, each with one of its captions per epoch, or with each of them in turn."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        lease: LeasedTask,
        method: StreamMethod,
        backbone: DualEncoder,
        group: WorkerGroup,
        similarity: Tensor,
        open_train: Callable[[], SplitHandle],
        show: Callable[[dict[str, Any]], None],
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(experiment, lease, method, group, show, backbone.fingerprint)
        self.backbone = backbone
        self.similarity = similarity
        self.open_train = open_train
        self.transform = backbone.image_transform(experiment.inputs, self.stage.augmentation)
        # Of this task alone: the next one's may take its place on the disk.
        self.cache = PixelCache.wanted(
            self.stage.cache_gb, self.transform.cache_key, backbone.shape.image_bytes, note
        )

    @override
    def begin(self) -> None:
        encoder = PromptedEncoder(self.method, self.backbone)
        self._model: Any = self.group.distribute(encoder, broadcast_buffers=False)

    @override
    def batches(
        self, epoch: int, start: int
    ) -> tuple[int, Generator[Sequence[MicroBatch], None, None]]:
        stage, handle = self.stage, self.open_train()
        counts = sample_counts(handle, stage.epoch_over)
        samples = sum(counts)
        batch_size = self.fit_batch(samples, of=stage.epoch_over, least=LEAST)
        return steps_per_epoch(samples, batch_size, self.micro_batches), training_batches(
            handle,
            batch_size=batch_size,
            micro_batches=self.micro_batches,
            slots=self.slots,
            seed=(self.experiment.seed, self.lease.index, epoch),
            transform=self.transform,
            threads=loader_threads(stage),
            shuffle_buffer=stage.shuffle_buffer,
            start=start,
            pin=self.group.device.type == "cuda",
            cache=self.cache,
            captions=counts if stage.epoch_over == "captions" else None,
        )

    @override
    def gradients(self, batch: Sequence[MicroBatch]) -> dict[str, Tensor]:
        return self._accumulate([self._to_device(part) for part in batch], own_terms=True)

    @override
    def task_batch(self, batch: Sequence[MicroBatch]) -> TaskBatch:
        parts = [self._to_device(part) for part in batch]
        return TaskBatch(
            parts, lambda: self.collected(lambda: self._accumulate(parts, own_terms=False))
        )

    def _accumulate(self, parts: Sequence[TokenBatch], *, own_terms: bool) -> dict[str, Tensor]:
        return accumulate_gradients(
            self._model,
            parts,
            self.group,
            self.backbone.logit_scale,
            self.similarity,
            own_terms=own_terms,
        )

    @override
    def images_of(self, batch: Sequence[MicroBatch]) -> Sequence[object]:
        return [image for part in batch for image in part.image_ids]

    def _to_device(self, batch: MicroBatch) -> TokenBatch:
        device = self.group.device
        texts = [self.experiment.inputs.text(caption) for caption in batch.captions]
        ids = self.backbone.tokenize(texts, self.method.placeholders)
        # Images are in pinned pages, and are copied while the GPU works.
        images = self.transform.normalise(batch.images.to(device, non_blocking=True))
        return TokenBatch(images, ids.to(device, non_blocking=True))
