"""Checks of GLIP's head: deformable convolution with gradients, dynamic head, feature pyramid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from system.grounders.glip.deformable import leading_numbers, modulated_deform_conv, output_size
from system.grounders.glip.dynamic_head import DynamicBlock, DynamicHead, Upsampling
from system.grounders.glip.pyramid import FeaturePyramid
from tests.golden.named_weights import state_dict
from tests.golden.runner import Fixture, Tolerance, check

Outputs = Mapping[str, NDArray[Any]]

LEVELS = range(3, 8)
ARGUMENTS = ("input", "offset", "mask", "weight", "bias")
HEAD_NAMES = {
    "rpn.head.dyhead_tower.": "blocks.",
    "DyConv.0.": "coarser.",
    "DyConv.1.": "same.",
    "DyConv.2.": "finer.",
    ".bn.": ".norm.",
    "AttnConv.1.": "gate.",
    "relu.fc.0.": "activation.squeeze.",
    "relu.fc.2.": "activation.excite.",
}
PYRAMID_NAMES = {
    **{f"backbone.fpn.fpn_inner{level + 2}.": f"lateral.{level}." for level in range(3)},
    **{f"backbone.fpn.fpn_layer{level + 2}.": f"output.{level}." for level in range(3)},
    **{f"backbone.fpn.top_blocks.p{level + 6}.": f"extra.{level}." for level in range(2)},
}


def _fill(module: nn.Module, fixture: Fixture, names: Mapping[str, str]) -> None:
    """Give a module all weights of the fixture, each under our name."""
    weights = state_dict(json.loads(str(fixture["keys_json"])), int(fixture["seed"]))
    renamed = {}
    for published, value in weights.items():
        own = published
        for part, ours in names.items():
            own = own.replace(part, ours)
        renamed[own] = torch.from_numpy(value)
    module.load_state_dict(renamed)


def _levels(fixture: Fixture, letter: str, numbers: Sequence[int]) -> list[Tensor]:
    return [torch.from_numpy(fixture[f"in_{letter}{number}"]) for number in numbers]


@check("glip_deform", Tolerance(scaled=1e-5))
def _glip_deform(fixture: Fixture) -> Outputs:
    outputs: dict[str, NDArray[Any]] = {}
    for case in ("same", "stride2", "mismatch"):
        x, offset, modulation, weight, bias = arguments = [
            torch.from_numpy(fixture[f"in_{case}_{name}"]).requires_grad_() for name in ARGUMENTS
        ]
        stride = int(fixture[f"in_{case}_stride"])
        size = output_size(x, stride)
        found = modulated_deform_conv(
            x,
            leading_numbers(offset, size),
            leading_numbers(modulation, size),
            weight,
            bias,
            stride,
        )
        outputs[f"out_{case}_output"] = found.detach().numpy()
        given = torch.from_numpy(fixture[f"in_{case}_grad_output"])
        gradients = torch.autograd.grad(found, arguments, given)
        for name, gradient in zip(ARGUMENTS, gradients, strict=True):
            outputs[f"out_{case}_grad_{name}"] = gradient.numpy()
    return outputs


@check("glip_dyhead", Tolerance(scaled=1e-4))
@torch.no_grad()
def _glip_dyhead(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    levels = _levels(fixture, "p", LEVELS)
    outputs: dict[str, NDArray[Any]] = {}
    for upsampling in get_args(Upsampling):
        head = DynamicHead(
            config["channels"], config["blocks"], config["group_norm_groups"], upsampling
        )
        _fill(head, fixture, HEAD_NAMES)
        block: Any = head.blocks[0]
        for part, found in (("block", block(levels)), ("tower", head(levels))):
            for number, level in zip(LEVELS, found, strict=True):
                outputs[f"out_{part}_{upsampling}_p{number}"] = level.numpy()
        if upsampling == "bilinear":
            outputs |= _parts(block, levels)
    return outputs


def _parts(block: DynamicBlock, levels: Sequence[Tensor]) -> Outputs:
    """What the block's branches and gates are at P4; the coarser branch before upsampling."""
    finer, level, coarser, *_ = levels
    shifts = block.shifts(level)
    branches = {
        "same": block.same(level, *shifts),
        "finer": block.finer(finer, *shifts),
        "coarser": block.coarser(coarser, *shifts),
    }
    outputs = {f"out_parts_{name}_p4": branch.numpy() for name, branch in branches.items()}
    branches["coarser"] = block.upsample(branches["coarser"], level.shape[-2:])
    gates = torch.stack([block.strength(branch).flatten() for branch in branches.values()], dim=1)
    raw: Tensor = block.offset(level)
    return outputs | {
        "out_parts_offset_mask_p4": raw.numpy(),
        "out_parts_weights_p4": gates.numpy(),
    }


@check("glip_fpn", Tolerance(scaled=2e-5))
@torch.no_grad()
def _glip_fpn(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    levels = _levels(fixture, "c", (3, 4, 5))  # as published, the finest is not used
    widths = [config["embed_dim"] << stage for stage in (1, 2, 3)]
    pyramid = FeaturePyramid(widths, config["channels"], extra_levels=2)
    _fill(pyramid, fixture, PYRAMID_NAMES)
    found = pyramid(levels)
    return {f"out_p{number}": level.numpy() for number, level in zip(LEVELS, found, strict=True)}
