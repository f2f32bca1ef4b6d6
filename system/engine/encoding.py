"""Features of many samples, spread over the workers, the same whatever their number.

Samples are encoded in blocks of one fixed size, the last one filled up with copies of its last
row, so that the shapes of a forward pass never depend on how many samples are asked for.

Legend: n samples asked for, E block size, P feature width.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from system.backbones.dual_encoder import DualEncoder, Modality, PixelTransform, unit
from system.config.schema import InputConfig
from system.data.shards.loading import row_selection
from system.data.shards.manifest import SplitHandle
from system.data.shards.padding import PaddedImages
from system.data.shards.pixel_cache import PixelCache
from system.engine.whereabouts import here
from system.engine.worker_group import WorkerGroup
from system.methods.sharing import StreamMethod
from system.storage.feature_store import FeatureStore

Prompted = tuple[StreamMethod, Sequence[int]]  # the method, and the task of each sample
Route = Callable[[Tensor], Tensor]  # unprompted features (n, P) on the CPU -> tasks (n,)


@dataclass(frozen=True)
class Encoder:
    """Encodes with the frozen backbone, with or without a method's prompts."""

    backbone: DualEncoder
    group: WorkerGroup
    block: int
    threads: int
    raw: bool = False  # features as the backbone gives them, not scaled to unit length
    inputs: InputConfig = field(default_factory=InputConfig)
    cache: PixelCache | None = None  # of the transform that `images` gets

    def images(
        self,
        handle: SplitHandle,
        rows: Sequence[int],
        transform: PixelTransform,
        prompted: Prompted | None,
    ) -> Tensor:
        """Features (n, P) of the images in `rows` of a split, in that order, on every rank."""
        batches = self._images(handle, rows, transform)
        return self._encode("vision", batches, prompted, transform.normalise)

    @torch.inference_mode()
    def images_and_routes(
        self,
        handle: SplitHandle,
        rows: Sequence[int],
        transform: PixelTransform,
        method: StreamMethod,
        route: Route,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What two calls of `images` give, to the bit, with each image read and decoded once.

        Unprompted features (n, P), the task (n,) that `route` finds by them, and features (n, P)
        under the prompts of that task.
        """
        device, width = self.group.device, self.backbone.shape.feature_width
        positions: list[int] = []
        parts, routes = [torch.zeros(0, 2 * width)], [torch.zeros(0, dtype=torch.long)]
        for part, inputs in self._images(handle, rows, transform):
            pixels = filled(inputs.to(device, non_blocking=True), self.block)
            inputs = transform.normalise(pixels)
            plain = self._scaled(self.backbone("vision", inputs, None))
            tasks = route(plain[: len(part)].cpu())
            chosen = filled(tasks.to(device), self.block)
            prompted = self._scaled(method.encode(self.backbone, "vision", inputs, chosen))
            parts.append(torch.cat([plain, prompted], dim=1)[: len(part)].cpu())
            routes.append(tasks)
            positions.extend(part)
            here().move()
        features = in_order(self.group, torch.cat(parts), positions)
        tasks = in_order(self.group, torch.cat(routes), positions)
        return features[:, :width].clone(), tasks, features[:, width:].clone()

    def _images(
        self, handle: SplitHandle, rows: Sequence[int], transform: PixelTransform
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """This rank's blocks of the images in `rows`: their places, and their pixels."""
        mine = [i for block in self._my_blocks(len(rows)) for i in block]
        chunks = row_selection(
            handle,
            [rows[i] for i in mine],
            batch_rows=self.block,
            transform=transform,
            threads=self.threads,
            pin=self.group.device.type == "cuda",
            cache=self.cache,
        )
        start = 0
        for chunk in chunks:
            stop = start + len(chunk.images)
            yield mine[start:stop], chunk.images
            start = stop

    def texts(
        self, captions: Sequence[str], prompted: Prompted | None, placeholders: int = 0
    ) -> Tensor:
        """Features (n, P) of captions, in their order, on every rank.

        The texts have room for the prompt; unprompted ones for as many `placeholders`.
        """
        texts = [self.inputs.text(caption) for caption in captions]
        if prompted is not None:
            placeholders = prompted[0].placeholders
        rows = self.backbone.token_rows(texts, placeholders)
        # Texts of one padded length share blocks: how long a text's own row is made, and so its
        # feature's rounding, depends on no other text and on no number of workers.
        alike: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            alike[self.backbone.padded_length(len(row))].append(place)
        blocks = [
            places[start : start + self.block]
            for _, places in sorted(alike.items())
            for start in range(0, len(places), self.block)
        ]

        def batches() -> Iterator[tuple[Sequence[int], Tensor]]:
            for part in blocks[self.group.rank :: self.group.size]:
                yield part, self.backbone.padded([rows[i] for i in part])

        return self._encode("text", batches(), prompted)

    def feature_key(self, handles: Sequence[SplitHandle], placeholders: int = 0) -> str:
        """The feature store's key of these rows' unprompted features."""
        return FeatureStore.key(
            backbone=self.backbone.fingerprint,
            inputs=self.inputs.feature_settings,
            placeholders=placeholders,
            shards=[
                part
                for handle in handles
                for part in (
                    *(shard.sha256 for shard in handle.shards),
                    *(f"without {row}" for row in sorted(handle.without)),
                )
            ],
            # Rounding depends on the kernels, and these on the device, the block, the settings.
            device=self.group.device.type,
            block=self.block,
            precision=self.backbone.computation.precision_on(self.group.device),
            compiled=self.backbone.computation.compile,
            **({"text_padding": "longest"} if self.backbone.trims_texts else {}),
        )

    def _my_blocks(self, count: int) -> list[range]:
        return dealt_blocks(self.group, count, self.block)

    @torch.inference_mode()
    def _encode(
        self,
        modality: Modality,
        batches: Iterator[tuple[Sequence[int], Tensor]],
        prompted: Prompted | None,
        prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs,
    ) -> Tensor:
        device = self.group.device
        positions: list[int] = []
        parts = [torch.zeros(0, self.backbone.shape.feature_width)]
        for part, inputs in batches:
            # What the loader pinned is copied while the GPU works.
            inputs = prepare(filled(inputs.to(device, non_blocking=True), self.block))
            if prompted is None:
                features = self.backbone(modality, inputs, None)
            else:
                method, tasks = prompted
                chosen = torch.tensor([tasks[i] for i in part], device=device)
                features = method.encode(
                    self.backbone, modality, inputs, filled(chosen, self.block)
                )
            features = self._scaled(features)
            parts.append(features[: len(part)].cpu())
            positions.extend(part)
            here().move()
        return in_order(self.group, torch.cat(parts), positions)

    def _scaled(self, features: Tensor) -> Tensor:
        return features.float() if self.raw else unit(features)


def dealt_blocks(group: WorkerGroup, count: int, block: int) -> list[range]:
    """The blocks of `count` places that are this rank's, dealt out in turn."""
    starts = range(group.rank * block, count, group.size * block)
    return [range(start, min(start + block, count)) for start in starts]


def in_order(group: WorkerGroup, rows: Tensor, positions: Sequence[int]) -> Tensor:
    """All ranks' rows (n, ...), each at its position, of which each of 0 to n - 1 comes once."""
    gathered = group.gather_rows(rows)
    order = group.gather_rows(torch.tensor(positions, dtype=torch.long))
    result = torch.empty_like(gathered)
    result[order] = gathered
    return result


def filled(rows: Tensor, size: int) -> Tensor:
    """Rows (n, ...) and copies of the last one: (size, ...)."""
    if len(rows) == size:
        return rows
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])


def filled_images(images: PaddedImages, size: int) -> PaddedImages:
    """Images and copies of the last one: `size` of them."""
    sizes = None if images.sizes is None else filled(images.sizes, size)
    return PaddedImages(filled(images.pixels, size), sizes)


def as_indices(mask: Tensor) -> list[int]:
    """Positions of the true entries of a (n,) mask."""
    return [int(i) for i in np.flatnonzero(mask.numpy())]
