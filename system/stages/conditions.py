"""What conditions the prompt generator: a dual encoder's embeddings, computed once.

Legend: n expressions, R images, U different texts, P width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from system.backbones.dual_encoder import DualEncoder
from system.data.expressions import ReferredExpression
from system.data.manifest import SplitGrant
from system.stages.encoding import Encoder
from system.stages.model_stage import Show
from system.stages.shared_parts import make_parts
from system.stages.worker_group import WorkerGroup
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.storage.tensor_parts import TensorParts

BLOCK = 64  # samples of a forward pass
PROTOCOL = "corrected"  # the checkpoint's own transform: the generator has no published oddity


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
        self, backbone: DualEncoder, group: WorkerGroup, folder: Folder, show: Show
    ) -> None:
        self.group = group
        self.folder = folder
        self.show = show
        # Each rank makes whole parts by itself.
        alone = WorkerGroup(rank=0, size=1, device=group.device)
        self.encoder = Encoder(backbone.to(group.device), alone, BLOCK, threads=1)
        self.transform = backbone.image_transform(PROTOCOL, "none")

    def of(self, grant: SplitGrant, expressions: Sequence[ReferredExpression]) -> Conditions:
        """The embeddings of a split's expressions; every rank has to call this.

        They have length sqrt(P), so that an entry is about as large as one of the timestep's.
        """
        texts = sorted({entry.text for entry in expressions})
        place = {text: index for index, text in enumerate(texts)}
        key = self.encoder.feature_key(PROTOCOL, [grant])

        def embed_images(rows: range) -> dict[str, Tensor]:
            return {"image": self.encoder.images(grant, rows, self.transform, None)}

        def embed_texts(rows: range) -> dict[str, Tensor]:
            return {"text": self.encoder.texts([texts[i] for i in rows], None)}

        def show(done: int, total: int) -> None:
            self.show(f"embedding {grant.task}, {grant.split}", done, total, "")

        images = TensorParts(self._place("images", key), grant.rows)
        make_parts(images, self.group, embed_images, show)
        embedded = TensorParts(self._place("expressions", key), len(texts))
        make_parts(embedded, self.group, embed_texts, show)
        scale = self.encoder.backbone.shape.feature_width**0.5
        return Conditions(
            images.read_all()["image"] * scale,
            embedded.read_all()["text"] * scale,
            torch.tensor([entry.row for entry in expressions]),
            torch.tensor([place[entry.text] for entry in expressions]),
        )

    def _place(self, what: str, key: str) -> Folder:
        return self.folder.child(f"{what}-{FeatureStore.key(what=what, features=key)}")
