"""A GLIP's sizes, read from the shapes of its published weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from system.errors import ConfigError
from system.grounders.glip.dynamic_head import Upsampling
from system.grounders.glip.glip_config import GlipConfig, HeadSizes, TextSizes, VisionSizes
from system.grounders.glip.published_names import FUSION, HEAD, PYRAMID, TEXT, VISION

HEAD_WIDTH = 64  # of each of BERT's attention heads, in all sizes of its authors
_EMBEDDED = ("word", "position")


@dataclass(frozen=True)
class PublishedOptions:
    """What no shape of the weights tells; the defaults are GLIP's published configurations'.

    `tokenizer` is a hub id or a local directory of a BERT tokenizer's files. `text_heads` are the
    attention heads of each BERT layer, null: one per 64 features. `upsampling` nearest is that of
    Diff-Prompt's released code.
    """

    tokenizer: str = "bert-base-uncased"
    text_heads: int | None = None
    norm_groups: int = 16
    upsampling: Upsampling = "bilinear"


def published_sizes(
    state: Mapping[str, Tensor], options: PublishedOptions, where: str
) -> GlipConfig:
    """The config of a GLIP without deep fusion in the released naming, without `module.`.

    Raises ConfigError for a GLIP with deep fusion; for another model, naming tensors that sizes are
    read from and that are not there; and for sizes that cannot be.
    """
    _refuse_fusion(state, where)
    stages = len(_numbers(state, rf"{re.escape(VISION)}layers\.(\d+)\.blocks\..*"))
    layers = [f"{VISION}layers.{stage}.blocks.0" for stage in range(max(stages, 1))]
    tables = [f"{layer}.attn.relative_position_bias_table" for layer in layers]
    patches, mlp = f"{VISION}patch_embed.proj.weight", f"{layers[0]}.mlp.fc1.weight"
    lateral = f"{PYRAMID}fpn_inner{len(layers)}.weight"
    words, positions = (f"{TEXT}embeddings.{kind}_embeddings.weight" for kind in _EMBEDDED)
    inner = f"{TEXT}encoder.layer.0.intermediate.dense.weight"
    told = {patches: 4, mlp: 2, **dict.fromkeys(tables, 2), lateral: 4}
    told |= {f"{HEAD}dyhead_tower.0.offset.weight": 4, words: 2, positions: 2, inner: 2}
    missing = [name for name, size in told.items() if _dimensions(state.get(name)) != size]
    if missing:
        raise ConfigError(
            f"{where} is no GLIP in the released naming; missing: {', '.join(missing[:3])}; it "
            f"holds {', '.join(list(state)[:3]) or 'nothing'}, ..."
        )
    size = {name: state[name].shape for name in told}
    width, hidden = size[patches][0], size[words][1]
    if options.text_heads is None and hidden % HEAD_WIDTH:
        raise ConfigError(
            f"{where}: BERT is {hidden} wide, no multiple of {HEAD_WIDTH} features per attention "
            "head; import it with text_heads=NUMBER, of its training's configuration"
        )
    heads = hidden // HEAD_WIDTH if options.text_heads is None else options.text_heads
    depths = [
        len(_numbers(state, rf"{re.escape(VISION)}layers\.{stage}\.blocks\.(\d+)\..*"))
        for stage in range(stages)
    ]
    try:
        return GlipConfig(
            vision=VisionSizes(
                embed_dim=width,
                depths=tuple(depths),
                num_heads=tuple(size[table][1] for table in tables),
                window_size=(math.isqrt(size[tables[0]][0]) + 1) // 2,
                patch_size=size[patches][-1],
                mlp_ratio=size[mlp][0] / width,
            ),
            text=TextSizes(
                vocab_size=size[words][0],
                hidden_size=hidden,
                num_hidden_layers=len(
                    _numbers(state, rf"{re.escape(TEXT)}encoder\.layer\.(\d+)\..*")
                ),
                num_attention_heads=heads,
                intermediate_size=size[inner][0],
                max_position_embeddings=size[positions][0],
            ),
            head=HeadSizes(
                stages=tuple(_numbers(state, rf"{re.escape(PYRAMID)}fpn_inner(\d+)\..*")),
                extra_levels=len(_numbers(state, rf"{re.escape(PYRAMID)}top_blocks\.p(\d+)\..*")),
                channels=size[lateral][0],
                blocks=len(_numbers(state, rf"{re.escape(HEAD)}dyhead_tower\.(\d+)\..*")),
                norm_groups=options.norm_groups,
                upsampling=options.upsampling,
            ),
        )
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _refuse_fusion(state: Mapping[str, Tensor], where: str) -> None:
    fused = next((name for name in state if FUSION.fullmatch(name)), None)
    if fused is not None:
        raise ConfigError(
            f"{where} is a GLIP with deep fusion of image and text ({fused}), as GLIP-T (B), (C), "
            "GLIP-T and GLIP-L are; promptide reads those without it, as GLIP-T (A) is "
            "(glip_a_tiny_o365.pth)"
        )


def _numbers(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """What a pattern's group is in the names that match it, ascending."""
    found = (re.fullmatch(pattern, name) for name in state)
    return sorted({int(match[1]) for match in found if match})


def _dimensions(tensor: Tensor | None) -> int:
    return -1 if tensor is None or 0 in tensor.shape else tensor.dim()
