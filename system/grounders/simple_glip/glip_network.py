"""The network of `glip_style`: Swin and BERT of `transformers`, a feature pyramid, a dense head.

Li et al. 2022, "Grounded language-image pre-training", arXiv 2112.03857, without deep fusion, as
its model GLIP-T (A): image and text meet in the region-token dot product alone.

Legend: B batch, A places over all levels, T tokens, D text width, P width of a vision level.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from system.grounders.bert_prompts import BertPrompts
from system.grounders.detection import (
    Anchors,
    assign,
    box_loss,
    centreness,
    centreness_loss,
    pyramid_anchors,
    word_loss,
)
from system.grounders.simple_glip.dense_head import DenseHead, FeaturePyramid, WordScores
from system.grounders.simple_glip.glip_config import GlipConfig
from system.grounders.swin_prompts import SwinPrompts, WindowEntry

BOX_WEIGHT = 2.0  # of the box loss in the sum (ATSS)


@dataclass(frozen=True)
class Dense:
    """The head's outputs for every place; float32."""

    words: Tensor  # (B, A, T) logits
    boxes: Tensor  # (B, A, 4), pixels
    centreness: Tensor  # (B, A) logits
    anchors: Anchors


class GlipNetwork(nn.Module):
    """Trainable; `GlipStyle` is the frozen grounder around it."""

    def __init__(self, config: GlipConfig) -> None:
        from transformers import BertConfig, BertModel, SwinBackbone, SwinConfig

        super().__init__()
        self.config = config
        vision, text, head = config.vision, config.text, config.head
        self.vision: Any = SwinBackbone(
            SwinConfig(
                image_size=config.pictures.image_size,
                embed_dim=vision.embed_dim,
                depths=list(vision.depths),
                num_heads=list(vision.num_heads),
                window_size=vision.window_size,
                patch_size=vision.patch_size,
                mlp_ratio=vision.mlp_ratio,
                drop_path_rate=0.0,
                out_features=[f"stage{stage}" for stage in head.stages],
            )
        )
        self.text: Any = BertModel(
            BertConfig(
                vocab_size=text.vocab_size,
                hidden_size=text.hidden_size,
                num_hidden_layers=text.num_hidden_layers,
                num_attention_heads=text.num_attention_heads,
                intermediate_size=text.intermediate_size,
                max_position_embeddings=text.max_position_embeddings,
                pad_token_id=text.pad_token_id,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        self.level_widths = tuple(vision.width(stage - 1) for stage in head.stages)
        self.pyramid = FeaturePyramid(self.level_widths, head)
        self.head = DenseHead(head, len(config.strides))
        self.word_scores = WordScores(text.hidden_size, head.channels)
        self._vision_prompts = SwinPrompts(self.vision_layers)
        self._text_prompts = BertPrompts(self.text.encoder)

    @property
    def vision_layers(self) -> list[nn.Module]:
        """Swin's blocks, in order."""
        return list(chain.from_iterable(stage.blocks for stage in self.vision.swin.encoder.layers))

    @property
    def text_layers(self) -> list[nn.Module]:
        """BERT's layers, in order."""
        return list(self.text.encoder.layer)

    @contextmanager
    def prompted(
        self,
        vision: Sequence[Tensor],
        windows: WindowEntry,
        text: Sequence[Tensor],
        context: Tensor | None,
    ) -> Iterator[None]:
        """Let prompts and a context stand in both towers during the block of code."""
        with (
            self._vision_prompts.active(vision, windows),
            self._text_prompts.active(text, context),
        ):
            yield

    def see(self, images: Tensor) -> list[Tensor]:
        """Levels (B, P, H, W) of the vision tower from images (B, 3, H, W)."""
        return list(self.vision(images).feature_maps)

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, T, D) of the text tower."""
        tokens: Tensor = self.text(input_ids=ids, attention_mask=mask).last_hidden_state
        return tokens

    def locate(
        self,
        levels: Sequence[Tensor],
        tokens: Tensor,
        adapt: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Dense:
        """The head's outputs for every place, from those of the towers.

        All images have the same number of expressions; those of one image are adjacent. `adapt`
        changes each level (B, C, H, W) of the pyramid.
        """
        levels = self.pyramid(levels)
        if adapt is not None:
            levels = [adapt(index, level) for index, level in enumerate(levels)]
        each = len(tokens) // max(len(levels[0]), 1)  # expressions per image
        regions, logs, centres = (
            found.repeat_interleave(each, dim=0) if each > 1 else found
            for found in self.head(levels)
        )
        words = self.word_scores(regions, tokens)
        anchors = pyramid_anchors(
            [(level.shape[-2], level.shape[-1]) for level in levels],
            self.config.strides,
            self.config.head.anchor_scale,
            regions.device,
        )
        return Dense(words.float(), anchors.decode(logs.float()), centres.float(), anchors)

    def forward(self, *args: Any, **options: Any) -> Dense:
        """As `locate`: so that the call can be made with other parameters."""
        return self.locate(*args, **options)

    def losses(
        self, dense: Dense, targets: Sequence[Tensor], words: Tensor, tokens: Tensor
    ) -> dict[str, Tensor]:
        """Weighted terms (B,) by name, each sample by its own positives.

        `targets` are B of (n, 4) in pixels, `words` and `tokens` (B, T) as in `word_loss`.
        """
        boxes, present = _padded(targets, dense.boxes)
        anchors = dense.anchors
        taken = assign(anchors, boxes, present, self.config.head.nearest_anchors)  # (B, A)
        positive = taken >= 0
        if boxes.shape[1] == 0:  # no sample has a target: any box will do, with weight 0
            boxes = dense.boxes.new_zeros(len(targets), 1, 4)
        matched = boxes.gather(1, taken.clamp_min(0)[..., None].expand(-1, -1, 4))
        inner = centreness(anchors.centres, matched) * positive
        return {
            "words": word_loss(dense.words, positive, words, tokens),
            "boxes": BOX_WEIGHT * box_loss(dense.boxes, matched, inner),
            "centreness": centreness_loss(dense.centreness, inner, positive),
        }


def word_mean(values: Tensor, words: Tensor) -> Tensor:
    """Mean (B, ...) of values (B, ..., T) over each sample's words (B, T)."""
    weight = words.to(values.dtype).reshape(len(words), *[1] * (values.ndim - 2), -1)
    return (values * weight).sum(dim=-1) / weight.sum(dim=-1).clamp_min(1)


def _padded(targets: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Targets as (B, n, 4), and which are no padding (B, n)."""
    most = max((len(target) for target in targets), default=0)
    boxes = like.new_zeros(len(targets), most, 4)
    present = torch.zeros(len(targets), most, dtype=torch.bool, device=like.device)
    for sample, target in enumerate(targets):
        boxes[sample, : len(target)] = target.to(boxes)
        present[sample, : len(target)] = True
    return boxes, present
