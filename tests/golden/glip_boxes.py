"""Checks of GLIP's boxes: anchors and deltas, selection, assignment and losses with gradients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.grounders.glip.box_coder import Anchors, pyramid_anchors
from system.grounders.glip.box_losses import assign, centreness, detection_losses, token_targets
from system.grounders.glip.box_selection import (
    SelectionRules,
    label_probabilities,
    resize_boxes,
    select_boxes,
)
from tests.golden.runner import Fixture, Tolerance, check

Outputs = Mapping[str, NDArray[Any]]

STRIDES = (8, 16, 32, 64, 128)
SCALE = 8  # an anchor's side in strides
EXACT = Tolerance()
CPU = torch.device("cpu")


def scored_boxes_in_order(
    found: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    expected: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
) -> NDArray[Any]:
    """An order of found boxes (k, 4), scores and labels in which they stand as the expected ones.

    Where scores are equal but for rounding, either order is right. Each expected box takes the
    nearest free one of its label.
    """
    boxes, scores, labels = found
    if len(boxes) != len(expected[0]):
        return np.arange(len(boxes))  # the comparison will tell
    order, free = [], np.ones(len(boxes), dtype=bool)
    for box, score, label in zip(*expected, strict=True):
        away = np.abs(boxes - box).max(axis=1) + 1e3 * np.abs(scores - score)
        away = away + np.where(labels == label, 0, 1e6) + np.where(free, 0, 1e9)
        order.append(int(away.argmin()))
        free[order[-1]] = False
    return np.asarray(order, dtype=int)


def _levels(fixture: Fixture, name: str) -> list[Tensor]:
    return [torch.from_numpy(fixture[f"in_{name}_{level}"]) for level in range(len(STRIDES))]


def _places(levels: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, H, W) of all levels as (B, A, C)."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def _anchors(levels: Sequence[Tensor]) -> Anchors:
    sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
    return pyramid_anchors(sizes, STRIDES, SCALE, CPU)


@check("glip_boxes", {"out_anchors_*": EXACT, "*": Tolerance(scaled=1e-5)})
def _glip_boxes(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    sizes = [(int(height), int(width)) for height, width in fixture["in_grids"]]
    scale = config["sizes"][0] / config["strides"][0]
    anchors = pyramid_anchors(sizes, config["strides"], scale, CPU)
    outputs = {
        f"out_anchors_p{level + 3}": boxes.numpy()
        for level, boxes in enumerate(torch.split(anchors.boxes, list(anchors.per_level)))
    }
    boxes, inside = (torch.from_numpy(fixture[f"in_{name}"]) for name in ("boxes", "inside"))
    encoded = anchors.encode(boxes)
    outputs["out_decoded"] = anchors.decode(torch.from_numpy(fixture["in_deltas"])).numpy()
    outputs["out_encoded"] = encoded.numpy()
    outputs["out_round_trip"] = anchors.decode(encoded).numpy()
    outputs["out_centerness"] = centreness(anchors.centres, boxes)[inside].numpy()
    return outputs


PIXELS = Tolerance(absolute=1e-3)
SELECTED = {"*_labels_*": EXACT, "*_scores_*": Tolerance(scaled=1e-5), "*_boxes_*": PIXELS}


@check("glip_postprocess", SELECTED)
def _glip_postprocess(fixture: Fixture) -> Outputs:
    maps, logits = _levels(fixture, "boxes"), torch.cat(_levels(fixture, "logits"), dim=1)
    anchors = _anchors(maps)
    boxes = anchors.decode(_places(maps))
    central = _places(_levels(fixture, "centerness"))[..., 0]
    labels = fixture["in_labels"]
    tokens = torch.zeros(len(boxes), len(labels), logits.shape[-1])
    for row, label in enumerate(labels):
        tokens[:, row, torch.from_numpy(fixture[f"in_tokens_of_label_{label}"])] = 1
    named = label_probabilities(logits, tokens)
    sizes, originals = fixture["in_image_sizes"].tolist(), fixture["in_original_sizes"].tolist()
    outputs: dict[str, NDArray[Any]] = {}
    for case, published in json.loads(str(fixture["config_json"]))["cases"].items():
        rules = SelectionRules(
            threshold=published["threshold"],
            candidates_per_level=published["pre_nms_top_n"],
            overlap=published["nms"],
            most=published["detections"],
        )
        found = select_boxes(boxes, named, central, anchors.per_level, sizes, rules)
        for image, one in enumerate(found):
            resized = resize_boxes(one.boxes, sizes[image], originals[image])
            values = {
                "boxes": one.boxes.numpy(),
                "scores": one.scores.numpy(),
                "labels": labels[one.labels.numpy()],
                "resized_boxes": resized.numpy(),
            }
            names = {key: f"out_{case}_{key}_{image}" for key in values}
            order = scored_boxes_in_order(
                (values["boxes"], values["scores"], values["labels"]),
                tuple(fixture[names[key]] for key in ("boxes", "scores", "labels")),  # type: ignore[arg-type]
            )
            outputs |= {names[key]: value[order] for key, value in values.items()}
    return outputs


@check("glip_losses", {"*_matched_gt": EXACT, "*": Tolerance(scaled=1e-5)})
def _glip_losses(fixture: Fixture) -> Outputs:
    published = json.loads(str(fixture["config_json"]))
    outputs: dict[str, NDArray[Any]] = {}
    for key in fixture:
        if key.endswith("_matched_gt"):
            case = key.removeprefix("out_").removesuffix("_matched_gt")
            outputs |= _losses(fixture, case, published["topk"])
    return outputs


def _losses(fixture: Fixture, case: str, nearest: int) -> Outputs:
    given = {
        name: [level.requires_grad_() for level in _levels(fixture, f"{case}_{name}")]
        for name in ("boxes", "centerness", "logits")
    }
    anchors = _anchors(given["boxes"])
    mask = torch.from_numpy(fixture["in_text_masks"])
    targets = [torch.from_numpy(fixture[f"in_{case}_gt_{image}"]) for image in range(len(mask))]
    assignment = assign(anchors, targets, nearest)
    every_row = torch.from_numpy(fixture[f"in_{case}_positive_map"])
    rows = torch.split(every_row, [len(target) for target in targets])
    last = mask.shape[1] - 1
    terms = detection_losses(
        torch.cat(given["logits"], dim=1),
        anchors.decode(_places(given["boxes"])),
        _places(given["centerness"])[..., 0],
        assignment,
        rows,
        mask,
        assignment.divisors("batch"),
        background_token=last,
    )
    torch.autograd.backward(torch.stack([term.mean() for term in terms.values()]).sum())
    positive = assignment.positive
    outputs = {
        "matched_gt": assignment.matched,
        "box_targets": anchors.encode(assignment.boxes)[positive],
        "centerness_targets": assignment.centreness[positive],
        "token_targets_of_positives": token_targets(assignment, rows, last)[positive],
        "loss_reg": terms["boxes"].mean(),
        "loss_centerness": terms["centreness"].mean(),
        "loss_dot_product_token": terms["words"].mean(),
    }
    for name, levels in given.items():
        for level, value in enumerate(levels):
            assert value.grad is not None
            outputs[f"grad_{name}_{level}"] = value.grad
    expected = [name for name in fixture if name.startswith(f"out_{case}_")]
    return {name: outputs[name.removeprefix(f"out_{case}_")].detach().numpy() for name in expected}
