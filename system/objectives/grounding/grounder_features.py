"""Unprompted features of a grounder, the same for any number of workers.

Images and texts go through it in blocks of one fixed size, the last one filled up.

Legend: I images, T texts, E block size, P feature width.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from system.backbones.dual_encoder import unit
from system.data.shards.image_batches import image_batches
from system.data.shards.manifest import SplitHandle
from system.engine.encoding import dealt_blocks, filled_images, in_order
from system.engine.worker_group import WorkerGroup
from system.grounders.grounder import Grounder
from system.storage.feature_store import FeatureStore


@dataclass(frozen=True)
class GrounderFeatures:
    """Encodes with a frozen grounder, or finds what was encoded before."""

    grounder: Grounder
    group: WorkerGroup
    block: int
    threads: int
    store: FeatureStore

    def of(self, handle: SplitHandle, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit features of a split's images (I, P), row by row, and of texts (T, P).

        On every rank, and every rank has to call this.
        """
        key = self._key(handle, texts)
        found = self.group.broadcast(self.store.find(key) if self.group.leads else None)
        if found is None:
            found = {"vision": self._images(handle), "text": self._texts(texts)}
            if self.group.leads:
                self.store.put(key, found)
        return found["vision"], found["text"]

    @torch.inference_mode()
    def _images(self, handle: SplitHandle) -> Tensor:
        mine = dealt_blocks(self.group, handle.rows, self.block)
        parts = [torch.zeros(0, self.grounder.routing_width)]
        batches = image_batches(
            [handle],
            [[(0, row) for row in block] for block in mine],
            transform=self.grounder.image_transform(),
            threads=self.threads,
            multiple=self.grounder.side_multiple,
        )
        with closing(batches):
            for block, images in zip(mine, batches, strict=True):
                pixels, sizes = filled_images(images, self.block)
                features = unit(self.grounder.routing_features(pixels.to(self.group.device), sizes))
                parts.append(features[: len(block)].cpu())
        return in_order(self.group, torch.cat(parts), [row for block in mine for row in block])

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> Tensor:
        mine = dealt_blocks(self.group, len(texts), self.block)
        parts = [torch.zeros(0, self.grounder.shape.feature_width)]
        for block in mine:
            chosen = [texts[i] for i in block]
            chosen += chosen[-1:] * (self.block - len(chosen))
            tokens = self.grounder.tokenize(chosen).to(self.group.device)
            parts.append(unit(self.grounder.text_features(tokens))[: len(block)].cpu())
        return in_order(self.group, torch.cat(parts), [i for block in mine for i in block])

    def _key(self, handle: SplitHandle, texts: Sequence[str]) -> str:
        computation = self.grounder.computation
        return FeatureStore.key(
            grounder=self.grounder.fingerprint,
            transform=str(self.grounder.image_transform()),  # images may come in another size
            what="level means and words",
            shards=[shard.sha256 for shard in handle.shards],
            without=sorted(handle.without),
            texts=list(texts),
            # Rounding depends on the kernels, and these on the device, the block, the settings.
            device=self.group.device.type,
            block=self.block,
            precision=computation.precision_on(self.group.device),
            compiled=computation.compile,
        )
