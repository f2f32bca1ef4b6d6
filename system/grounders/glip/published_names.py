"""Names of GLIP's weights in the released code's checkpoints, and ours.

Both directions go through one mapping, from our names to the published ones. It differs in more
than spelling for a Swin block's queries, keys and values: the released code keeps them in one
tensor (`attn.qkv`), one behind the other, `transformers` in three.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

VISION, PYRAMID = "backbone.body.", "backbone.fpn."
TEXT, HEAD = "language_backbone.body.model.", "rpn.head."
INDEX = "relative_position_index"
CELL_ANCHORS = "rpn.anchor_generator.cell_anchors."
#: In a checkpoint, and of no use to its results: positions that count up, BERT's pooler, layers
#: that no output passes through, and the class scores, whose loss has weight 0.
UNUSED = re.compile(
    r".*\.embeddings\.position_ids|.*\.pooler\..*|rpn\.resizer\..*|rpn\.head\.cls_logits\..*"
)
#: Layers of a head in which image and text meet before its end, and the text's own among them.
FUSION = re.compile(
    r"rpn\.head\.dyhead_tower\.\d+\.(b_attn|t2i_attn|shrink_lang|mapping_lang|attention)\..*"
)
#: Parts of a Swin's names, ours and the published ones.
_SWIN = (
    ("swin.embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("swin.embeddings.norm.", "patch_embed.norm."),
    ("swin.encoder.layers.", "layers."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".attention.o_proj.", ".attn.proj."),
    (
        ".attention.relative_position_bias.relative_position_bias_table",
        ".attn.relative_position_bias_table",
    ),
)
_LEVEL_NORM = re.compile(r"hidden_states_norms\.stage(\d+)\.(.*)")
_THIRD = re.compile(r"(.*)\.attention\.([qkv])_proj\.(.*)")


def published_shapes(
    own: Mapping[str, Sequence[int]], stages: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published tensors that ours are made of.

    `stages` of the vision tower, counted from 1, hand on a level each.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in own.items():
        published, third = _source(name, stages)
        first, *rest = shape
        shapes[published] = tuple(shape) if third is None else (3 * first, *rest)
    return shapes


def own_tensors(
    own: Iterable[str], published: Mapping[str, Tensor], stages: Sequence[int]
) -> dict[str, Tensor]:
    """Our tensors by name: the published ones, or views of them."""
    tensors = {}
    for name in own:
        source, third = _source(name, stages)
        tensor = published[source]
        tensors[name] = tensor if third is None else tensor.chunk(3)[third]
    return tensors


def _source(own: str, stages: Sequence[int]) -> tuple[str, int | None]:
    """The published tensor that one of ours is, or is a third of."""
    part, _, name = own.partition(".")
    if part == "vision":
        name, third = _swin(name)
        return VISION + name, third
    if part == "text":
        return TEXT + name, None
    raise AssertionError(own)


def _swin(name: str) -> tuple[str, int | None]:
    if found := _LEVEL_NORM.fullmatch(name):
        return f"norm{int(found[1]) - 1}.{found[2]}", None
    for own, published in _SWIN:
        name = name.replace(own, published)
    if found := _THIRD.fullmatch(name):
        return f"{found[1]}.attn.qkv.{found[3]}", "qkv".index(found[2])
    return name, None
