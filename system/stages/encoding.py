"""Features of many samples, spread over the workers, the same whatever their number.

Samples are encoded in blocks of one fixed size, the last one filled up with copies of its last
row, so that the shapes of a forward pass never depend on how many samples are asked for.

Legend: n samples asked for, E block size, P feature width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from system.backbones.dual_encoder import DualEncoder, ImageTransform, Modality, unit
from system.data.loading import row_selection
from system.data.manifest import SplitGrant
from system.prompts.method import Method
from system.stages.worker_group import WorkerGroup
from system.storage.feature_store import FeatureStore

Prompted = tuple[Method, Sequence[int]]  # the method, and the task of each sample


@dataclass(frozen=True)
class Encoder:
    """Encodes with the frozen backbone, with or without a method's prompts."""

    backbone: DualEncoder
    group: WorkerGroup
    block: int
    threads: int

    def images(
        self,
        grant: SplitGrant,
        rows: Sequence[int],
        transform: ImageTransform,
        prompted: Prompted | None,
    ) -> Tensor:
        """Unit features (n, P) of the images in `rows` of a split, in that order, on every rank."""
        mine = self._my_rows(len(rows))

        def batches() -> Iterator[tuple[list[int], Tensor]]:
            chunks = row_selection(
                grant,
                [rows[i] for i in mine],
                batch_rows=self.block,
                transform=transform,
                threads=self.threads,
            )
            start = 0
            for chunk in chunks:
                stop = start + len(chunk.images)
                yield mine[start:stop], chunk.images
                start = stop

        return self._encode("vision", batches(), len(rows), prompted)

    def texts(self, texts: Sequence[str], prompted: Prompted | None) -> Tensor:
        """Unit features (n, P) of texts, in their order, on every rank."""
        mine = self._my_rows(len(texts))
        placeholders = prompted[0].placeholders if prompted else 0

        def batches() -> Iterator[tuple[list[int], Tensor]]:
            for start in range(0, len(mine), self.block):
                part = mine[start : start + self.block]
                yield part, self.backbone.tokenize([texts[i] for i in part], placeholders)

        return self._encode("text", batches(), len(texts), prompted)

    def feature_key(self, protocol: str, grants: Sequence[SplitGrant]) -> str:
        """The feature store's key of these rows' unprompted features."""
        return FeatureStore.key(
            backbone=self.backbone.fingerprint,
            protocol=protocol,
            shards=[
                part
                for grant in grants
                for part in (
                    *(shard.sha256 for shard in grant.shards),
                    *(f"without {row}" for row in sorted(grant.without)),
                )
            ],
            # Rounding depends on the kernels, and these on the device, the block, the settings.
            device=self.group.device.type,
            block=self.block,
            precision=self.backbone.computation.precision_on(self.group.device),
            compiled=self.backbone.computation.compile,
        )

    def _my_rows(self, count: int) -> list[int]:
        """Positions that this rank encodes: whole blocks, dealt out in turn."""
        starts = range(self.group.rank * self.block, count, self.group.size * self.block)
        return [i for start in starts for i in range(start, min(start + self.block, count))]

    @torch.inference_mode()
    def _encode(
        self,
        modality: Modality,
        batches: Iterator[tuple[list[int], Tensor]],
        count: int,
        prompted: Prompted | None,
    ) -> Tensor:
        device = self.group.device
        positions: list[int] = []
        parts = [torch.zeros(0, self.backbone.shape.feature_width)]
        for part, inputs in batches:
            filled = _fill(inputs, self.block).to(device, non_blocking=True)
            if prompted is None:
                features = self.backbone(modality, filled, None)
            else:
                method, tasks = prompted
                chosen = torch.tensor([tasks[i] for i in part], device=device)
                features = method.encode(self.backbone, modality, filled, _fill(chosen, self.block))
            parts.append(unit(features)[: len(part)].cpu())
            positions.extend(part)
        features = self.group.gather_rows(torch.cat(parts))
        order = self.group.gather_rows(torch.tensor(positions, dtype=torch.long))
        result = torch.empty(count, features.shape[1])
        result[order] = features
        return result


def _fill(rows: Tensor, size: int) -> Tensor:
    if len(rows) == size:
        return rows
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])


def as_indices(mask: Tensor) -> list[int]:
    """Positions of the true entries of a (n,) mask."""
    return [int(i) for i in np.flatnonzero(mask.numpy())]
