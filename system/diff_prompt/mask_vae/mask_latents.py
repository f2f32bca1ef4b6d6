"""The latents of the masks that expressions refer to, computed once by the frozen Mask-VAE.

Legend: n expressions, O objects referred to, C latent channels, h w latent height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from system.data.shards.manifest import SplitHandle
from system.data.shards.split_objects import ReferredExpression
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.object_pixels import object_pixels
from system.engine.model_stage import Show
from system.engine.worker_group import WorkerGroup, make_parts
from system.storage.feature_store import FeatureStore, TensorParts
from system.storage.files import Folder

BLOCK = 64  # masks of a forward pass


@dataclass(frozen=True)
class MaskLatents:
    """Latents in the space of the decoder that made them, an object each."""

    latents: Tensor  # (O, C, h, w), the modes
    deviations: Tensor | None  # (O, C, h, w) around them, of a decoder without scale
    object_of: Tensor  # (n,) row of `latents`


def mask_latents(
    handle: SplitHandle,
    expressions: Sequence[ReferredExpression],
    vae: MaskDecoder,
    group: WorkerGroup,
    folder: Folder,
    show: Show,
) -> MaskLatents:
    """The latents of a split's objects, or what was computed before; every rank has to call this.

    An object with several expressions has one latent.
    """
    firsts: dict[tuple[int, int], int] = {}  # of each object its first expression, in order
    for sample, entry in enumerate(expressions):
        firsts.setdefault((entry.row, entry.instance), sample)
    objects = [expressions[sample].mask for sample in firsts.values()]
    place = {identity: index for index, identity in enumerate(firsts)}

    def encode(rows: range) -> dict[str, Tensor]:
        parts = []
        for start in range(rows.start, rows.stop, BLOCK):
            block = objects[start : min(start + BLOCK, rows.stop)]
            pixels = object_pixels(vae.config, block)
            parts.append([each.cpu() for each in vae.posterior(pixels.to(group.device))])
        mode, deviation = (torch.cat(each) for each in zip(*parts, strict=True))
        return {"latent": mode} if vae.scaled else {"latent": mode, "deviation": deviation}

    def show_parts(done: int, total: int) -> None:
        show(f"mask latents of {handle.task}, {handle.split}", done, total, "")

    key = FeatureStore.key(
        what="mask latents",
        vae=vae.digest,
        shards=[shard.sha256 for shard in handle.shards],
        device=group.device.type,
        **({} if vae.scaled else {"scaled": False}),
    )
    parts = TensorParts(folder.child(f"masks-{key}"), len(objects))
    make_parts(parts, group, encode, show_parts)
    made = parts.read_all()
    return MaskLatents(
        made["latent"],
        made.get("deviation"),
        torch.tensor([place[entry.row, entry.instance] for entry in expressions]),
    )
