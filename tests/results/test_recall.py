from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.errors import ConfigError, DataError
from system.results.metrics import MetricValue
from system.results.ranks import (
    BEYOND,
    TIE_TOLERANCE,
    average_precision,
    image_to_text_ranks,
    ranks_from_scores,
    retrieval_ranks,
    right_ranks,
    text_to_image_ranks,
)
from system.results.recall import recall_at_k, retrieval_metrics


def found_metrics(*features: Tensor, **options: Any) -> dict[str, dict[int, MetricValue]]:
    return retrieval_metrics(retrieval_ranks(*features, **options))


def _naive_ranks(scores: Tensor, query_image: Tensor, candidate_image: Tensor) -> list[int]:
    """One query at a time, one candidate at a time."""
    ranks = []
    for row, image in zip(scores.tolist(), query_image.tolist(), strict=True):
        owners = candidate_image.tolist()
        best = max(s for s, owner in zip(row, owners, strict=True) if owner == image)
        wrong = [s for s, owner in zip(row, owners, strict=True) if owner != image]
        ranks.append(1 + sum(s >= best - TIE_TOLERANCE for s in wrong))
    return ranks


def _problem(
    images: int, extra: int, seed: int, width: int = 4, levels: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Features on a coarse grid, so that ties are common; each image has 1 or more texts."""
    generator = torch.Generator().manual_seed(seed)
    image_of_text = torch.cat(
        [torch.arange(images), torch.randint(images, (extra,), generator=generator)]
    )
    image_of_text = image_of_text[torch.randperm(images + extra, generator=generator)]

    def features(rows: int) -> Tensor:
        grid = torch.randint(-levels, levels + 1, (rows, width), generator=generator).float()
        grid[:, 0] = levels  # no zero vector
        return grid

    return features(images), features(images + extra), image_of_text


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 12),
    extra=st.integers(0, 20),
    chunk=st.integers(1, 9),
    seed=st.integers(0, 10_000),
)
def test_chunked_ranks_equal_the_naive_ones(images: int, extra: int, chunk: int, seed: int) -> None:
    """Any wrong index in the fast path is a wrong recall in the result."""
    image_features, text_features, image_of_text = _problem(images, extra, seed)
    unit_images = torch.nn.functional.normalize(image_features.double(), dim=1)
    unit_texts = torch.nn.functional.normalize(text_features.double(), dim=1)
    scores, image = unit_images @ unit_texts.T, torch.arange(images)
    t2i = text_to_image_ranks(text_features, image_features, image_of_text, chunk=chunk)
    i2t = image_to_text_ranks(image_features, text_features, image_of_text, chunk=chunk)
    assert t2i.tolist() == _naive_ranks(scores.T, image_of_text, image)
    assert i2t.tolist() == _naive_ranks(scores, image, image_of_text)
    whole = ranks_from_scores(scores, image, image_of_text, tie_tolerance=TIE_TOLERANCE)
    assert i2t.tolist() == whole.tolist()


def _naive_precision(
    scores: Tensor, query_image: Tensor, candidate_image: Tensor, depth: int
) -> list[float]:
    """One query at a time down its ranking, wrong candidates first where the scores tie."""
    found = []
    for row, image in zip(scores.tolist(), query_image.tolist(), strict=True):
        candidates = list(zip(row, candidate_image.tolist(), strict=True))
        right = sorted((s for s, owner in candidates if owner == image), reverse=True)
        wrong = [s for s, owner in candidates if owner != image]
        # A right candidate comes behind all wrong ones that tie with it.
        ranking = sorted(
            [(s, 1) for s in wrong] + [(s - TIE_TOLERANCE, 0) for s in right], reverse=True
        )
        total, hits = 0.0, 0
        for rank, (_, is_wrong) in enumerate(ranking[:depth], start=1):
            if not is_wrong:
                hits += 1
                total += hits / rank
        found.append(total / min(depth, len(right)))
    return found


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 12),
    extra=st.integers(0, 30),
    depth=st.integers(1, 12),
    seed=st.integers(0, 10_000),
)
def test_average_precision_equals_the_naive_one(
    images: int, extra: int, depth: int, seed: int
) -> None:
    """Of all right candidates, whatever ties and however many captions an image has."""
    image_features, text_features, image_of_text = _problem(images, extra, seed)
    unit = torch.nn.functional.normalize
    scores = unit(image_features.double(), dim=1) @ unit(text_features.double(), dim=1).T
    image = torch.arange(images)
    for rows, query, candidate in (
        (scores, image, image_of_text),
        (scores.T, image_of_text, image),
    ):
        ranks = right_ranks(rows, query, candidate, depth, tie_tolerance=TIE_TOLERANCE)
        right = torch.bincount(candidate, minlength=images)[query]
        precision = average_precision(ranks, right, depth)
        assert precision.tolist() == pytest.approx(_naive_precision(rows, query, candidate, depth))


def test_average_precision_of_a_ranking_by_hand() -> None:
    """Right at ranks 1, 3 and 12 of four right ones: (1/1 + 2/3) / 4, and all right first is 1."""
    scores = torch.linspace(1, 0, 20)[None]
    owner = torch.ones(20, dtype=torch.long)
    owner[[0, 2, 11, 19]] = 0
    ranks = right_ranks(scores, torch.tensor([0]), owner, 10, tie_tolerance=0.0)
    assert ranks.tolist() == [[1, 3, BEYOND, BEYOND]]
    assert average_precision(ranks, torch.tensor([4]), 10).tolist() == [pytest.approx(5 / 12)]
    many = right_ranks(scores, torch.tensor([1]), owner.clamp(max=1), 10, tie_tolerance=0.0)
    assert many[0, 0] == 2
    first = right_ranks(scores, torch.tensor([2]), 2 + 0 * owner, 10, tie_tolerance=0.0)
    assert average_precision(first, torch.tensor([20]), 10).tolist() == [1.0]


def test_map_of_text_queries_is_the_reciprocal_rank_within_ten() -> None:
    image_features, text_features, image_of_text = _problem(15, 30, seed=5)
    tasks = torch.zeros(15, dtype=torch.long)
    features = (image_features, text_features, image_of_text)
    found = found_metrics(*features, tasks, tasks=[0], gallery="all")
    ranks = text_to_image_ranks(text_features, image_features, image_of_text)
    expected = (1 / ranks).where(ranks <= 10, 0.0).mean()
    assert found["t2i_map10"][0].value == pytest.approx(100 * float(expected))
    assert found["t2i_map10"][0].queries == 45


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


def test_a_model_that_answers_the_same_to_everything_scores_zero() -> None:
    """Ties broken in the model's favour would give a collapsed model 100 %."""
    constant = torch.ones(20, 8)
    ranks = text_to_image_ranks(constant, constant, torch.arange(20))
    assert ranks.tolist() == [20] * 20
    assert recall_at_k(ranks, (1, 5, 10)) == {1: 0.0, 5: 0.0, 10: 0.0}


def test_a_tie_within_rounding_counts_against_the_model() -> None:
    scores = torch.tensor([[0.5, 0.5 + 1e-8], [0.5 - 5e-7, 0.5], [0.4, 0.5]], dtype=torch.float64)
    query, candidate = torch.tensor([1, 1, 1]), torch.tensor([0, 1])
    ranks = ranks_from_scores(scores, query, candidate, tie_tolerance=TIE_TOLERANCE)
    assert ranks.tolist() == [2, 2, 1]


def test_other_captions_of_the_image_are_not_wrong_answers() -> None:
    image_features = torch.eye(2)
    text_features = torch.tensor([[1, 0.0], [1, 0.0], [1, 0.1], [0, 1.0]])
    ranks = image_to_text_ranks(image_features, text_features, torch.tensor([0, 0, 0, 1]))
    assert ranks.tolist() == [1, 1]


def test_image_rank_is_the_one_of_its_best_caption() -> None:
    image_features = torch.eye(2)
    text_features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 1.0]])
    ranks = image_to_text_ranks(image_features, text_features, torch.tensor([0, 0, 1]))
    assert ranks.tolist() == [1, 2]  # image 1: the caption (0, 1) of image 0 is nearer


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
            chunk=batch,
        )

    expected = figures(210, torch.arange(70), torch.arange(210))
    assert figures(batch, torch.arange(70), torch.arange(210)) == expected
    shuffled = torch.randperm(70, generator=generator), torch.randperm(210, generator=generator)
    assert figures(batch, *shuffled) == expected


def test_order_of_the_rows_does_not_change_the_ranks() -> None:
    image_features, text_features, image_of_text = _problem(15, 30, seed=5)
    generator = torch.Generator().manual_seed(6)
    to_image, to_text = (torch.randperm(n, generator=generator) for n in (15, 45))
    place = torch.argsort(to_image)  # where each image went
    plain = text_to_image_ranks(text_features, image_features, image_of_text)
    moved = text_to_image_ranks(
        text_features[to_text], image_features[to_image], place[image_of_text[to_text]]
    )
    assert moved.tolist() == plain[to_text].tolist()


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


def test_the_gallery_of_seen_tasks_grows_with_each_task() -> None:
    """As the released code of LPI evaluates: images and captions of the tasks learned so far."""
    images_of, captions = (3, 4, 5), 2
    image_task = torch.arange(3).repeat_interleave(torch.tensor(images_of))
    image_of_text = torch.arange(12).repeat_interleave(captions)
    features = torch.eye(12), torch.eye(12)[image_of_text], image_of_text, image_task

    def sizes(learned: int) -> dict[tuple[str, int], int]:
        found = retrieval_ranks(
            *features, tasks=range(3), gallery="seen", seen=range(learned), chunk=2
        )
        return {(one.direction, one.task): one.gallery for one in found}

    for learned, images in ((1, 3), (2, 7), (3, 12)):
        for task in range(learned):
            assert sizes(learned)["t2i", task] == images
            assert sizes(learned)["i2t", task] == captions * images
    # A task that is not learned yet is searched beside them, among its own too.
    assert [sizes(1)["t2i", task] for task in range(3)] == [3, 3 + 4, 3 + 5]
    assert [sizes(2)["i2t", task] for task in range(3)] == [14, 14, 24]


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


def test_image_without_a_caption_is_searched_but_does_not_search() -> None:
    figures = found_metrics(
        torch.eye(12),
        torch.eye(12)[:11],
        torch.arange(11),
        torch.zeros(12, dtype=torch.int64),
        tasks=[0],
        gallery="all",
    )
    assert figures["i2t_r1"][0].queries == 11
    with pytest.raises(ValueError, match="image 11"):
        image_to_text_ranks(torch.eye(12), torch.eye(12)[:11], torch.arange(11))


def test_queries_and_gallery_restrict_both_sides() -> None:
    image_features = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    index = torch.arange(3)
    ranks = text_to_image_ranks(
        image_features,
        image_features,
        index,
        queries=torch.tensor([0, 2]),
        gallery=torch.tensor([True, False, True]),
    )
    assert ranks.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_numbers_are_refused_by_row(bad: float) -> None:
    """NaN compares false with everything: it would silently rank first."""
    broken = torch.eye(4)
    broken[2, 1] = bad
    with pytest.raises(DataError, match=r"image features: 1 of 4 .* row 2"):
        text_to_image_ranks(torch.eye(4), broken, torch.arange(4))
    with pytest.raises(DataError, match="text features"):
        image_to_text_ranks(torch.eye(4), broken, torch.arange(4))


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        ranks_from_scores(
            torch.tensor([[math.nan, 1.0]]),
            torch.tensor([0]),
            torch.tensor([0, 1]),
            tie_tolerance=0.0,
        )


def test_inputs_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="same D"):
        text_to_image_ranks(torch.eye(3), torch.eye(4), torch.arange(3))
    with pytest.raises(ValueError, match="image_of_text has shape"):
        text_to_image_ranks(torch.eye(3), torch.eye(3), torch.arange(2))
    with pytest.raises(ValueError, match="outside"):
        text_to_image_ranks(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="image_task"):
        found_metrics(
            torch.eye(3),
            torch.eye(3),
            torch.arange(3),
            torch.arange(2),
            tasks=[0],
            gallery="all",
        )
    with pytest.raises(ConfigError, match="gallery"):
        found_metrics(
            torch.eye(3),
            torch.eye(3),
            torch.arange(3),
            torch.arange(3),
            tasks=[0],
            gallery="everything",
        )
