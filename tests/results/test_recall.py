"""Metrics of retrieval from features: which galleries, which tasks, and what is undefined."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from system.results.metrics import MetricValue
from system.results.ranks import retrieval_ranks
from system.results.recall import recall_at_k, retrieval_metrics
from system.results.score_tiles import Tile
from tests.results.naive_ranks import problem


def found_metrics(*features: Tensor, **options: Any) -> dict[str, dict[int, MetricValue]]:
    return retrieval_metrics(retrieval_ranks(*features, **options))


def test_map_without_a_wrong_candidate_is_undefined() -> None:
    """One image that is searched alone would have an mAP of 100 whatever the model."""
    found = found_metrics(
        torch.eye(3),
        torch.eye(3),
        torch.arange(3),
        torch.tensor([0, 1, 1]),
        tasks=[0, 1],
        gallery="task",
    )
    assert math.isnan(found["t2i_map10"][0].value)
    assert "mAP@10 is always 100" in (found["t2i_map10"][0].reason or "")
    assert found["t2i_map10"][1].value == 100.0


def test_figures_are_per_task_of_the_query() -> None:
    image_features = torch.eye(12)
    text_features = torch.eye(12)
    text_features[6:] = text_features[6:].roll(1, 0)  # the second task's texts are mixed up
    figures = found_metrics(
        image_features,
        text_features,
        torch.arange(12),
        torch.arange(12) // 6,
        tasks=[0, 1],
        gallery="all",
    )
    assert [figures["t2i_r1"][task].value for task in (0, 1)] == [100, 0]
    assert [figures["i2t_r1"][task].value for task in (0, 1)] == [100, 0]
    assert figures["t2i_r1"][0].queries == 6
    assert figures["t2i_r1"][0].reason is None


def test_recall_that_cannot_fail_is_undefined_with_a_reason() -> None:
    """Recall at 10 among 5 images is 100 for any model: reporting it would be a boast."""
    figures = found_metrics(
        torch.eye(5),
        torch.eye(5).repeat(4, 1),
        torch.arange(5).repeat(4),
        torch.zeros(5, dtype=torch.int64),
        tasks=[0],
        gallery="all",
    )
    assert figures["t2i_r1"][0].value == 100
    for metric in ("t2i_r5", "t2i_r10"):
        assert math.isnan(figures[metric][0].value)
        assert "gallery" in (figures[metric][0].reason or "")
    assert figures["i2t_r10"][0].value == 100  # 16 wrong texts: it can fail


def test_task_without_queries_is_undefined_with_a_reason() -> None:
    figures = found_metrics(
        torch.eye(12),
        torch.eye(12),
        torch.arange(12),
        torch.zeros(12, dtype=torch.int64),
        tasks=[0, 1],
        gallery="all",
    )
    figure = figures["i2t_r1"][1]
    assert math.isnan(figure.value)
    assert (figure.queries, figure.reason) == (0, "no queries")
    assert math.isnan(recall_at_k(torch.empty(0), (1,))[1])


def test_map_of_text_queries_is_the_reciprocal_rank_within_ten() -> None:
    image_features, text_features, image_of_text = problem(15, 30, seed=5)
    tasks = torch.zeros(15, dtype=torch.long)
    features = (image_features, text_features, image_of_text)
    found = found_metrics(*features, tasks, tasks=[0], gallery="all")
    t2i, _ = retrieval_ranks(*features, tasks, tasks=[0], gallery="all")
    ranks = t2i.ranks
    expected = (1 / ranks).where(ranks <= 10, 0.0).mean()
    assert found["t2i_map10"][0].value == pytest.approx(100 * float(expected))
    assert found["t2i_map10"][0].queries == 45


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_figures_do_not_depend_on_the_test_batch_or_order(batch: int) -> None:
    """Features of another batch size differ by rounding; duplicates make exact ties of them."""
    generator = torch.Generator().manual_seed(3)
    encoder = torch.nn.Sequential(
        torch.nn.Linear(48, 256), torch.nn.GELU(), torch.nn.Linear(256, 32)
    )
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    images = torch.randn(70, 48, generator=generator)
    images[35:] = images[:35]  # every image has a twin that no model can tell from it
    texts = images.repeat(3, 1) + 0.5 * torch.randn(210, 48, generator=generator)
    image_of_text, image_task = torch.arange(70).repeat(3), torch.arange(70) % 2

    @torch.no_grad()
    def encode(rows: Tensor, batch: int, order: Tensor) -> Tensor:
        features = torch.cat(
            [encoder(rows[order[start : start + batch]]) for start in range(0, len(rows), batch)]
        )
        return features[torch.argsort(order)]

    def figures(batch: int, image_order: Tensor, text_order: Tensor) -> object:
        return found_metrics(
            encode(images, batch, image_order),
            encode(texts, batch, text_order),
            image_of_text,
            image_task,
            tasks=[0, 1],
            gallery="all",
            tile=Tile(batch + 6, batch + 20),
        )

    expected = figures(210, torch.arange(70), torch.arange(210))
    assert figures(batch, torch.arange(70), torch.arange(210)) == expected
    shuffled = torch.randperm(70, generator=generator), torch.randperm(210, generator=generator)
    assert figures(batch, *shuffled) == expected


def test_gallery_decides_what_a_query_searches() -> None:
    """The same model scores differently on each gallery; the wrong one flatters or slanders it."""
    image_features = torch.eye(3).repeat(3, 1)  # three tasks with the same three images
    image_task = torch.arange(3).repeat_interleave(3)

    def task_of_gallery(gallery: str, seen: list[int]) -> list[float]:
        figures = found_metrics(
            image_features,
            image_features,
            torch.arange(9),
            image_task,
            tasks=[0, 1, 2],
            gallery=gallery,
            seen=seen,
        )
        return [figures["t2i_r1"][task].value for task in range(3)]

    assert task_of_gallery("task", []) == [100, 100, 100]
    assert task_of_gallery("all", []) == [0, 0, 0]
    assert task_of_gallery("seen", [0]) == [100, 0, 0]  # tasks 1 and 2 search task 0 beside theirs
    assert task_of_gallery("seen", []) == [100, 100, 100]
