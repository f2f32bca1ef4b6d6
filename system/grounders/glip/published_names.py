"""Names of GLIP's weights in the released code's checkpoints, and ours.

Each of our tensors is made of published ones: mostly it is one of them under another name. But the
released code keeps the queries, keys and values of a Swin block in one tensor (`attn.qkv`), one
behind the other, where `transformers` has three; and the scales of the levels in one tensor each,
where ours are one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

VISION, PYRAMID = "backbone.body.", "backbone.fpn."
TEXT, HEAD = "language_backbone.body.model.", "rpn.head."
INDEX = "relative_position_index"
CELL_ANCHORS = "rpn.anchor_generator.cell_anchors."
#: Of no use to the results: positions that count up, BERT's pooler, layers that no output passes
#: through, and the scores of classes, whose loss has weight 0.
UNUSED = re.compile(
    r".*\.embeddings\.position_ids|.*\.pooler\..*|rpn\.resizer\..*|rpn\.head\.cls_logits\..*"
)
#: Layers of a head in which image and text meet before its end, and layers of the text among them.
FUSION = re.compile(
    r"rpn\.head\.dyhead_tower\.\d+\.(b_attn|t2i_attn|shrink_lang|mapping_lang|attention)\..*"
)

Shape = tuple[int, ...]

#: Parts of names, ours and the published ones.
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
_BLOCK = (
    ("blocks.", "dyhead_tower."),
    (".coarser.", ".DyConv.0."),
    (".same.", ".DyConv.1."),
    (".finer.", ".DyConv.2."),
    (".norm.", ".bn."),
    (".gate.", ".AttnConv.1."),
    (".activation.squeeze.", ".relu.fc.0."),
    (".activation.excite.", ".relu.fc.2."),
)
_READ = (
    ("predictions.deltas.", "bbox_pred."),
    ("predictions.centreness.", "centerness."),
    ("token_scores.project.", "dot_product_projection_text."),
    ("token_scores.log_scale", "log_scale"),
    ("token_scores.bias.bias", "bias0"),
)
_LEVEL_NORM = re.compile(r"hidden_states_norms\.stage(\d+)\.(.*)")
_THIRD = re.compile(r"(.*)\.attention\.([qkv])_proj\.(.*)")
_LEVEL = re.compile(r"(lateral|output|extra)\.(\d+)\.(.*)")


@dataclass(frozen=True)
class _Source:
    """The published tensors that one of ours is made of."""

    names: tuple[str, ...]
    shape: Callable[[Shape], Shape] = lambda own: own  # of each
    make: Callable[[Sequence[Tensor]], Tensor] = lambda found: found[0]


def published_shapes(
    own: Mapping[str, Sequence[int]], stages: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published tensors that ours are made of.

    `stages` of the vision tower, counted from 1, hand on a level each.
    """
    shapes: dict[str, Shape] = {}
    for name, shape in own.items():
        source = _source(name, tuple(shape), stages)
        shapes |= {published: source.shape(tuple(shape)) for published in source.names}
    return shapes


def own_tensors(
    own: Mapping[str, Sequence[int]], published: Mapping[str, Tensor], stages: Sequence[int]
) -> dict[str, Tensor]:
    """Our tensors by name; views of the published ones but for a few small ones."""
    tensors = {}
    for name, shape in own.items():
        source = _source(name, tuple(shape), stages)
        tensors[name] = source.make([published[each] for each in source.names])
    return tensors


def _source(own: str, shape: Shape, stages: Sequence[int]) -> _Source:
    part, _, name = own.partition(".")
    if part == "vision":
        return _swin(name)
    if part == "text":
        return _Source((TEXT + name,))
    if part == "pyramid":
        return _Source((PYRAMID + _pyramid(name, stages),))
    if part == "head":
        return _Source((HEAD + _renamed(name, _BLOCK),))
    if own == "predictions.scales":
        names = tuple(f"{HEAD}scales.{level}.scale" for level in range(shape[0]))
        return _Source(names, lambda own: (1,), lambda found: torch.cat(list(found)))
    if own == "token_scores.bias.weight":
        return _Source((f"{HEAD}bias_lang",), lambda own: own[1:], lambda found: found[0][None])
    return _Source((HEAD + _renamed(own, _READ),))


def _swin(name: str) -> _Source:
    if found := _LEVEL_NORM.fullmatch(name):  # the released code counts stages from 0
        return _Source((f"{VISION}norm{int(found[1]) - 1}.{found[2]}",))
    if found := _THIRD.fullmatch(name):
        block, third, kind = found.groups()
        number = "qkv".index(third)
        return _Source(
            (VISION + _renamed(f"{block}.attn.qkv.{kind}", _SWIN),),
            lambda own: (3 * own[0], *own[1:]),
            lambda published: published[0].chunk(3)[number],
        )
    return _Source((VISION + _renamed(name, _SWIN),))


def _pyramid(name: str, stages: Sequence[int]) -> str:
    found = _LEVEL.fullmatch(name)
    assert found, name
    kind, index, rest = found.groups()
    if kind == "extra":  # P6 follows P5, which is made of the fourth stage
        return f"top_blocks.p{stages[-1] + 2 + int(index)}.{rest}"
    layer = "inner" if kind == "lateral" else "layer"
    return f"fpn_{layer}{stages[int(index)]}.{rest}"


def _renamed(name: str, parts: Iterable[tuple[str, str]]) -> str:
    for own, published in parts:
        name = name.replace(own, published)
    return name
