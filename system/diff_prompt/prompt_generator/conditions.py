"""Conditions of the prompt generator: a dual encoder's embeddings, computed once.

Legend: n expressions, R images, U different texts, P width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from system.backbones.computation import placed
from system.backbones.dual_encoder import DualEncoder, unit
from system.config.schema import InputConfig
from system.data.shards.manifest import SplitHandle
from system.data.shards.split_objects import ReferredExpression
from system.diff_prompt.prompt_generator.generator_settings import (
    ConditionResize,
    ConditionScale,
    TextEmbedding,
)
from system.engine.encoding import Encoder
from system.engine.model_stage import Show
from system.engine.worker_group import WorkerGroup, make_parts
from system.storage.feature_store import FeatureStore, TensorParts
from system.storage.files import Folder

BLOCK = 64  # samples of a forward pass


@dataclass(frozen=True)
class Conditions:
    """The embeddings of a split's expressions."""

    images: Tensor  # (R, P)
    texts: Tensor  # (U, P)
    image_of: Tensor  # (n,) row of `images`
    text_of: Tensor  # (n,) row of `texts`

    def take(self, samples: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Image and text embeddings (B, P) each."""
        chosen = torch.as_tensor(samples)
        return self.images[self.image_of[chosen]], self.texts[self.text_of[chosen]]


class ConditionEncoder:
    """Embeds images and expressions, or finds what was embedded before."""

    def __init__(
        self,
        backbone: DualEncoder,
        text_embedding: TextEmbedding,
        scale: ConditionScale,
        resize: ConditionResize,
        group: WorkerGroup,
        folder: Folder,
        show: Show,
    ) -> None:
        self.text_embedding = text_embedding
        self.scale = scale
        self.group = group
        self.folder = folder
        self.show = show
        # Each rank makes whole parts by itself.
        alone = WorkerGroup(rank=0, size=1, device=group.device)
        inputs = InputConfig(resize=resize)
        self.encoder = Encoder(
            placed(backbone, group.device),
            alone,
            BLOCK,
            threads=1,
            inputs=inputs,
            raw=scale == "raw",
        )
        self.transform = backbone.image_transform(inputs)

    def of(self, handle: SplitHandle, expressions: Sequence[ReferredExpression]) -> Conditions:
        """The embeddings of a split's expressions; every rank has to call this."""
        texts = sorted({entry.text for entry in expressions})
        place = {text: index for index, text in enumerate(texts)}
        key = self.encoder.feature_key([handle])

        def embed_images(rows: range) -> dict[str, Tensor]:
            return {"image": self.encoder.images(handle, rows, self.transform, None)}

        def embed_texts(rows: range) -> dict[str, Tensor]:
            block = [texts[i] for i in rows]
            if self.text_embedding == "tokens":
                return {"text": self._mean_tokens(block)}
            return {"text": self.encoder.texts(block, None)}

        def show(done: int, total: int) -> None:
            self.show(f"embedding {handle.task}, {handle.split}", done, total, "")

        images = TensorParts(self._place("images", key), handle.rows)
        make_parts(images, self.group, embed_images, show)
        embedded = TensorParts(self._place(f"expressions {self.text_embedding}", key), len(texts))
        make_parts(embedded, self.group, embed_texts, show)
        raw = self.scale == "raw"
        scale = 1.0 if raw else self.encoder.backbone.shape.feature_width**0.5
        return Conditions(
            images.read_all()["image"] * scale,
            embedded.read_all()["text"] * scale,
            torch.tensor([entry.row for entry in expressions]),
            torch.tensor([place[entry.text] for entry in expressions]),
        )

    def _mean_tokens(self, texts: Sequence[str]) -> Tensor:
        """Means (n, D), of unit length or raw, of the tokens that enter the text tower."""
        backbone, device = self.encoder.backbone, self.group.device
        ids = backbone.tokenize(texts).to(device)  # [n, T]
        tokens = backbone.embed("text", ids).float()  # [n, T, D]
        places = torch.arange(tokens.shape[1], device=device)
        own = (places < backbone.text_lengths(ids)[:, None])[..., None]  # [n, T, 1]
        total = (tokens * own).sum(dim=1)
        return (total / own.sum(dim=1) if self.scale == "raw" else unit(total)).cpu()

    def _place(self, what: str, key: str) -> Folder:
        if self.scale == "raw":
            what += " raw"
        digest = FeatureStore.key(what=what, features=key)
        return self.folder.child(f"{what.split()[0]}-{digest}")
