"""GLIP's network: Swin and BERT of `transformers`, a feature pyramid, a dynamic head.

Li et al. 2022, "Grounded language-image pre-training", arXiv 2112.03857, as its model GLIP-T (A):
no deep fusion, so that image and text meet in the region-token dot product alone.

Legend: B batch, A places over all levels, T tokens, D text width, P width of a vision level, C
channels of the pyramid.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from system.config.schema import Upsampling
from system.grounders.bert_prompts import BertPrompts
from system.grounders.glip.box_coder import Anchors, pyramid_anchors
from system.grounders.glip.box_losses import assign, detection_losses
from system.grounders.glip.dynamic_head import DynamicHead
from system.grounders.glip.glip_config import GlipConfig
from system.grounders.glip.predictions import BoxPredictions, TokenScores, places
from system.grounders.glip.pyramid import FeaturePyramid
from system.grounders.swin_prompts import SwinPrompts, WindowEntry


@dataclass(frozen=True)
class Dense:
    """The head's outputs for every place; float32."""

    tokens: Tensor  # (B, A, T) logits
    deltas: Tensor  # (B, A, 4), from the anchors
    boxes: Tensor  # (B, A, 4), decoded, pixels
    centreness: Tensor  # (B, A) logits
    anchors: Anchors


class GlipNetwork(nn.Module):
    """Trainable; `Glip` is the frozen grounder around it."""

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
        # The library's norm behind the last stage: no level passes through it.
        self.vision.swin.layernorm = nn.Identity()
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
        self.pyramid = FeaturePyramid(self.level_widths, head.channels, head.extra_levels)
        self.head = DynamicHead(head.channels, head.blocks, head.norm_groups, head.upsampling)
        self.predictions = BoxPredictions(head.channels, len(config.strides))
        self.token_scores = TokenScores(text.hidden_size, head.channels)
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

    def upsample(self, upsampling: Upsampling) -> None:
        """Set how the head upsamples: no weight depends on it."""
        self.config = replace(self.config, head=replace(self.config.head, upsampling=upsampling))
        self.head.upsample(upsampling)

    def see(self, images: Tensor) -> list[Tensor]:
        """Levels (B, P, H, W) of the vision tower from images (B, 3, H, W)."""
        return list(self.vision(images).feature_maps)

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, T, D) of the text tower, 0 where `mask` (B, T) is."""
        tokens: Tensor = self.text(input_ids=ids, attention_mask=mask).last_hidden_state
        return tokens * mask[..., None].to(tokens.dtype)

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
        return self.predict(self.regions(levels, adapt), tokens)

    def regions(
        self,
        levels: Sequence[Tensor],
        adapt: Callable[[int, Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Levels (B, C, H, W) behind the head, of those of the vision tower: images alone."""
        levels = self.pyramid(levels)
        if adapt is not None:
            levels = [adapt(index, level) for index, level in enumerate(levels)]
        found: list[Tensor] = self.head(levels)
        return found

    def predict(self, levels: Sequence[Tensor], tokens: Tensor) -> Dense:
        """The head's outputs for every place of `regions`, each image with its expressions."""
        regions = torch.cat([places(level) for level in levels], dim=1)  # (B, A, C)
        deltas, centres = self.predictions(levels)
        each = len(tokens) // max(len(regions), 1)  # expressions per image
        if each > 1:
            regions, deltas, centres = (
                found.repeat_interleave(each, dim=0) for found in (regions, deltas, centres)
            )
        anchors = pyramid_anchors(
            [(level.shape[-2], level.shape[-1]) for level in levels],
            self.config.strides,
            self.config.head.anchor_scale,
            regions.device,
        )
        return Dense(
            self.token_scores(regions, tokens),
            deltas.float(),
            anchors.decode(deltas),
            centres.float(),
            anchors,
        )

    def losses(
        self,
        dense: Dense,
        targets: Sequence[Tensor],
        rows: Sequence[Tensor],
        mask: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted terms (B,) by name, each sample by its own positives: see `detection_losses`.

        `targets` are B of (n, 4) in pixels, `rows` B of (n or 1, T), `mask` (B, T).
        """
        assignment = assign(dense.anchors, targets, self.config.head.nearest_anchors)
        return detection_losses(dense.tokens, dense.boxes, dense.centreness, assignment, rows, mask)

    def forward(self, *args: Any, **options: Any) -> Dense:
        """As `predict`: so that the call can be made with other parameters."""
        return self.predict(*args, **options)


def token_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean (B, ...) of values (B, ..., T) over each sample's chosen tokens (B, T)."""
    weight = chosen.to(values.dtype).reshape(len(chosen), *[1] * (values.ndim - 2), -1)
    return (values * weight).sum(dim=-1) / weight.sum(dim=-1).clamp_min(1)
