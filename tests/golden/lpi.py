"""Checks of the subjects of LPI: each feeds a fixture's inputs to the product's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from system.backbones.clip import ClipBackbone
from system.methods.losses import (
    Sigmoid,
    contrastive_loss,
    layer_alignment,
    nt_bxent,
    task_contrast,
)
from system.methods.low_rank import low_rank_prompt
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow
from system.results.ranks import retrieval_ranks
from system.results.recall import recall_at_k
from system.results.stream_metrics import (
    AVERAGE,
    FORGETTING,
    PUBLISHED_AVERAGE,
    PUBLISHED_FORGETTING,
    Summary,
)
from system.stream.router import route_by_centers
from tests.golden.runner import Fixture, check

Outputs = Mapping[str, NDArray[Any]]

PUBLISHED_WEIGHT = 0.1  # of layer alignment and task contrast


@check("low_rank_prompt")
def _low_rank_prompt(fixture: Fixture) -> Outputs:
    layer = torch.from_numpy(fixture["layer_factor"])
    return {
        f"{modality}_prompt": low_rank_prompt(
            layer,
            torch.from_numpy(fixture[f"{modality}_position_factor"]),
            torch.from_numpy(fixture[f"{modality}_feature_factor"]),
        ).numpy()
        for modality in ("vision", "text")
    }


@check("contrastive_loss")
def _contrastive_loss(fixture: Fixture) -> Outputs:
    logits = torch.from_numpy(fixture["logits"]).requires_grad_()
    loss = contrastive_loss(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    return {"loss": loss.detach().numpy(), "grad_logits": gradient.numpy()}


@check("nt_bxent")
def _nt_bxent(fixture: Fixture) -> Outputs:
    outputs = {}
    for key in fixture:
        if not key.startswith("x_"):
            continue
        case = key.removeprefix("x_")
        x = torch.from_numpy(fixture[key]).requires_grad_()
        target = torch.from_numpy(fixture[f"target_{case}"])
        temperature = float(fixture[f"temperature_{case}"])
        loss = nt_bxent(x, target, temperature, sigmoid="double", empty="nan")
        (gradient,) = torch.autograd.grad(loss, x)
        outputs[f"loss_{case}"] = loss.detach().numpy()
        outputs[f"grad_x_{case}"] = gradient.numpy()
    return outputs


@check("layer_alignment")
def _layer_alignment(fixture: Fixture) -> Outputs:
    prompts = (
        torch.from_numpy(fixture["vision_prompt"]),
        torch.from_numpy(fixture["text_prompt"]),
    )
    retrieval = layer_alignment(*prompts, similarity="dot", temperature=0.01)
    grounding = layer_alignment(*prompts, similarity="cosine", temperature=0.01)
    return {
        "loss_retrieval": (PUBLISHED_WEIGHT * retrieval).numpy(),
        "loss_grounding": (PUBLISHED_WEIGHT * grounding).numpy(),
    }


@check("task_contrast")
def _task_contrast(fixture: Fixture) -> Outputs:
    def loss(temperature: float, sigmoid: Sigmoid) -> NDArray[Any]:
        value = task_contrast(
            torch.from_numpy(fixture["vision_prompts"]),
            torch.from_numpy(fixture["text_prompts"]),
            torch.from_numpy(fixture["similarity"]),
            threshold=float(fixture["threshold"]),
            temperature=temperature,
            sigmoid=sigmoid,
            empty="nan",
        )
        array: NDArray[Any] = (PUBLISHED_WEIGHT * value).numpy()
        return array

    return {
        "loss_retrieval": loss(0.001, "double"),
        "loss_grounding": loss(0.01, "double"),
        "loss_single_sigmoid": loss(0.5, "single"),
    }


@check("prompted_clip")
def _prompted_clip(fixture: Fixture) -> Outputs:
    from transformers import CLIPConfig, CLIPModel

    model = CLIPModel(CLIPConfig(**json.loads(str(fixture["config_json"]))))
    weights = {
        key.removeprefix("weights/"): torch.from_numpy(value)
        for key, value in fixture.items()
        if key.startswith("weights/")
    }
    model.load_state_dict(weights, strict=True)
    backbone = ClipBackbone(model)
    pixels = torch.from_numpy(fixture["pixel_values"])
    ids = torch.from_numpy(fixture["input_ids"])
    vision = torch.from_numpy(fixture["vision_prompt"])[None]  # [1, L, N, D]
    text = torch.from_numpy(fixture["text_prompt"])[None]
    outputs = {}
    with torch.no_grad():
        outputs["image_plain"] = backbone.encode_image(pixels, None).numpy()
        outputs["text_plain"] = backbone.encode_text(ids, None).numpy()
        for depth in (1, 2):
            image = backbone.encode_image(pixels, vision[:, :depth])
            outputs[f"image_depth{depth}"] = image.numpy()
            outputs[f"text_depth{depth}"] = backbone.encode_text(ids, text[:, :depth]).numpy()
    return outputs


@check("routing")
def _routing(fixture: Fixture) -> Outputs:
    centers = torch.from_numpy(fixture["centers"])
    return {"task": route_by_centers(centers, torch.from_numpy(fixture["features"])).numpy()}


@check("retrieval_metrics")
def _retrieval_metrics(fixture: Fixture) -> Outputs:
    scores = torch.from_numpy(fixture["scores_image_text"])  # [I, T]
    image = torch.arange(scores.shape[0])
    image_of_text = image.repeat_interleave(int(fixture["captions_per_image"]))

    # Unit features whose cosines are the scores, scaled: one direction an image, and one that
    # brings the texts to unit length.
    scaled = scores.double().T / scores.double().norm(dim=0).max()  # [T, I]
    rest = (1 - scaled.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
    found = retrieval_ranks(
        torch.eye(len(image), len(image) + 1, dtype=torch.float64),
        torch.cat([scaled, rest], dim=1),
        image_of_text,
        torch.from_numpy(fixture["image_task"]).long(),
        tasks=np.unique(fixture["image_task"]).tolist(),
        gallery="all",
        tie_tolerance=1e-13,  # raw scores of any scale: only exact ties are ties
    )

    def recalls(direction: str) -> NDArray[Any]:
        of_tasks = [
            recall_at_k(one.ranks, (1, 5, 10)) for one in found if one.direction == direction
        ]
        return np.array([list(recall.values()) for recall in of_tasks])

    return {"i2t_recall_1_5_10": recalls("i2t"), "t2i_recall_1_5_10": recalls("t2i")}


@check("forgetting")
def _forgetting(fixture: Fixture) -> Outputs:
    values = fixture["matrix_trained_evaluated_k"]  # [K, K, 3], NaN above the diagonal
    matrix = AccuracyMatrix(
        [f"task {index}" for index in range(len(values))],
        [
            MatrixRow(i, j, f"k{k}", float(value), 1)
            for (i, j, k), value in np.ndenumerate(values)
            if not np.isnan(value)
        ],
    )

    def each_k(summaries: list[Summary]) -> NDArray[Any]:
        return np.array([summary.value for summary in summaries])

    metrics = [f"k{k}" for k in range(values.shape[2])]
    return {
        "published_average": each_k([PUBLISHED_AVERAGE.of(matrix, m) for m in metrics]),
        "published_forgetting": each_k([PUBLISHED_FORGETTING.of(matrix, m) for m in metrics]),
        "last_row_average": each_k([AVERAGE.of(matrix, m) for m in metrics]),
        "max_minus_last_forgetting": each_k([FORGETTING.of(matrix, m) for m in metrics]),
    }
