"""Ranks both ways, against float64 scores of each direction and task by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.errors import ConfigError, DataError
from system.results.metrics import MAP_DEPTH
from system.results.ranks import (
    BEYOND,
    TIE_TOLERANCE,
    QueryRanks,
    average_precision,
    retrieval_ranks,
)
from system.results.recall import recall_at_k
from system.results.score_tiles import Tile
from tests.results.naive_ranks import naive_retrieval_ranks, problem, right_ranks


def ranks(
    images: Tensor, texts: Tensor, image_of_text: Tensor, **options: Any
) -> tuple[list[int], list[int]]:
    """Of text queries, and of image queries, all of one task."""
    task = torch.zeros(len(images), dtype=torch.long)
    t2i, i2t = retrieval_ranks(
        images, texts, image_of_text, task, tasks=[0], gallery="all", **options
    )
    return t2i.ranks.tolist(), i2t.ranks.tolist()


def assert_equal(found: Sequence[QueryRanks], expected: Sequence[QueryRanks]) -> None:
    """Everything, to the bit."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.direction, one.task) == (other.direction, other.task)
        assert one.gallery == other.gallery
        for name in ("queries", "ranks", "precision", "right"):
            assert torch.equal(getattr(one, name), getattr(other, name)), (name, one, other)


def _features(kind: str, own: Tensor, images: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images and texts that are alike in some way that makes ranks hang on a last digit."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, width, generator=generator)

    image, text = normal(images), normal(len(own))
    if kind == "grid":  # many exact ties
        return image.round().clamp(-1, 1), text.round().clamp(-1, 1)
    if kind == "duplicates":  # images that stand several times, texts apart by about the tolerance
        image = image[torch.randint(images, (images,), generator=generator)]
        return image, 10 * image[own] + 3e-5 * text
    if kind == "near":  # all scores within a few tolerances, or within float32's error
        scale = 10.0 ** -(1 + 6 * torch.rand(1, generator=generator))
        return 1 + scale * image, 1 + scale * text
    return image, image[own] + 0.5 * text  # a model that has learned


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(["grid", "duplicates", "near", "learned"]),
    gallery=st.sampled_from(["all", "seen", "task"]),
    sizes=st.tuples(st.integers(1, 30), st.integers(0, 80), st.integers(1, 4)),
    width=st.sampled_from([2, 4, 16]),
    tile=st.tuples(st.integers(2, 9), st.integers(8, 30)),
    chosen=st.tuples(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4))),
    seed=st.integers(0, 10_000),
)
def test_ranks_equal_those_of_float64_scores(
    kind: str,
    gallery: Any,
    sizes: tuple[int, int, int],
    width: int,
    tile: tuple[int, int],
    chosen: tuple[set[int], set[int]],
    seed: int,
) -> None:
    """A score that float32 decides wrongly, or a pair counted twice, is a wrong recall."""
    images, texts, tasks = sizes
    generator = torch.Generator().manual_seed(seed)
    own = torch.randint(images, (texts,), generator=generator)
    image_task = torch.randint(tasks, (images,), generator=generator)
    features = (*_features(kind, own, images, width, seed), own, image_task)
    asked, seen = map(sorted, chosen)
    expected = naive_retrieval_ranks(*features, tasks=asked, gallery=gallery, seen=seen)
    for size in (Tile(*tile), None):
        found = retrieval_ranks(*features, tasks=asked, gallery=gallery, seen=seen, tile=size)
        assert_equal(found, expected)


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
@given(images=st.integers(1, 12), extra=st.integers(0, 60), seed=st.integers(0, 10_000))
def test_ranks_and_precision_equal_those_of_one_query_at_a_time(
    images: int, extra: int, seed: int
) -> None:
    """Of all right candidates, whatever ties and however many captions an image has."""
    image_features, text_features, image_of_text = problem(images, extra, seed)
    unit = torch.nn.functional.normalize
    scores = unit(image_features.double(), dim=1) @ unit(text_features.double(), dim=1).T
    image, task = torch.arange(images), torch.zeros(images, dtype=torch.long)
    t2i, i2t = retrieval_ranks(
        image_features, text_features, image_of_text, task, tasks=[0], gallery="all"
    )
    for rows, query, candidate, found in (
        (scores, image, image_of_text, i2t),
        (scores.T, image_of_text, image, t2i),
    ):
        expected = _naive_precision(rows, query, candidate, MAP_DEPTH)
        assert found.precision.tolist() == pytest.approx(expected)
        for row, own, rank in zip(rows, query, found.ranks, strict=True):
            best = row[candidate == own].max()
            wrong = row[candidate != own]
            assert rank == 1 + int((wrong >= best - TIE_TOLERANCE).sum())


def test_average_precision_of_a_ranking_by_hand() -> None:
    """Right at ranks 1, 3 and 12 of four right ones: (1/1 + 2/3) / 4, and all right first is 1."""
    scores = torch.linspace(1, 0, 20)[None]
    owner = torch.ones(20, dtype=torch.long)
    owner[[0, 2, 11, 19]] = 0
    found = right_ranks(scores, torch.tensor([0]), owner, 10, tie_tolerance=0.0)
    assert found.tolist() == [[1, 3, BEYOND, BEYOND]]
    assert average_precision(found, torch.tensor([4]), 10).tolist() == [pytest.approx(5 / 12)]
    first = right_ranks(scores, torch.tensor([2]), 2 + 0 * owner, 10, tie_tolerance=0.0)
    assert average_precision(first, torch.tensor([20]), 10).tolist() == [1.0]


def test_a_model_that_answers_the_same_to_everything_scores_zero() -> None:
    """Ties broken in the model's favour would give a collapsed model 100 %."""
    constant = torch.ones(20, 8)
    for found in ranks(constant, constant, torch.arange(20)):
        assert found == [20] * 20
        assert recall_at_k(torch.tensor(found), (1, 5, 10)) == {1: 0.0, 5: 0.0, 10: 0.0}


def test_a_tie_within_rounding_counts_against_the_model() -> None:
    """Rounding of a batch's shape decides nothing: float32's error is above the tolerance."""
    images = torch.eye(3, dtype=torch.float64)[:2]
    for ahead, expected in ((1e-8, 2), (-5e-7, 2), (-2e-6, 1), (-1e-3, 1)):
        # Of the right image, and of the other one.
        score = torch.tensor([0.5, 0.5 + ahead], dtype=torch.float64)
        text = torch.cat([score, (1 - score.square().sum()).sqrt()[None]])[None]
        t2i, _ = ranks(images, text, torch.tensor([0]))
        assert t2i == [expected], ahead


def test_other_captions_of_the_image_are_not_wrong_answers() -> None:
    text_features = torch.tensor([[1, 0.0], [1, 0.0], [1, 0.1], [0, 1.0]])
    assert ranks(torch.eye(2), text_features, torch.tensor([0, 0, 0, 1]))[1] == [1, 1]


def test_image_rank_is_the_one_of_its_best_caption() -> None:
    text_features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 1.0]])
    # Image 1: the caption (0, 1) of image 0 is nearer.
    assert ranks(torch.eye(2), text_features, torch.tensor([0, 0, 1]))[1] == [1, 2]


def test_order_of_the_rows_does_not_change_the_ranks() -> None:
    image_features, text_features, image_of_text = problem(15, 30, seed=5)
    generator = torch.Generator().manual_seed(6)
    to_image, to_text = (torch.randperm(n, generator=generator) for n in (15, 45))
    place = torch.argsort(to_image)  # where each image went
    plain, _ = ranks(image_features, text_features, image_of_text)
    moved, _ = ranks(
        image_features[to_image], text_features[to_text], place[image_of_text[to_text]]
    )
    assert moved == torch.tensor(plain)[to_text].tolist()


def test_image_without_a_caption_is_searched_but_does_not_search() -> None:
    t2i, i2t = ranks(torch.eye(12).roll(1, 0), torch.eye(12)[:11], torch.arange(11))
    assert len(i2t) == 11
    assert t2i == [12] * 11  # one that nobody wrote of is ahead, and all that tie at 0


def test_the_gallery_of_seen_tasks_grows_with_each_task() -> None:
    """As the released code of LPI evaluates: images and captions of the tasks learned so far."""
    images_of, captions = (3, 4, 5), 2
    image_task = torch.arange(3).repeat_interleave(torch.tensor(images_of))
    image_of_text = torch.arange(12).repeat_interleave(captions)
    features = torch.eye(12), torch.eye(12)[image_of_text], image_of_text, image_task

    def sizes(learned: int) -> dict[tuple[str, int], int]:
        found = retrieval_ranks(*features, tasks=range(3), gallery="seen", seen=range(learned))
        return {(one.direction, one.task): one.gallery for one in found}

    for learned, images in ((1, 3), (2, 7), (3, 12)):
        for task in range(learned):
            assert sizes(learned)["t2i", task] == images
            assert sizes(learned)["i2t", task] == captions * images
    # A task that is not learned yet is searched beside them, among its own too.
    assert [sizes(1)["t2i", task] for task in range(3)] == [3, 3 + 4, 3 + 5]
    assert [sizes(2)["i2t", task] for task in range(3)] == [14, 14, 24]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_numbers_are_refused_by_row(bad: float) -> None:
    """NaN compares false with everything: it would silently rank first."""
    broken = torch.eye(4)
    broken[2, 1] = bad
    with pytest.raises(DataError, match=r"image features: 1 of 4 .* row 2"):
        ranks(broken, torch.eye(4), torch.arange(4))
    with pytest.raises(DataError, match="text features"):
        ranks(torch.eye(4), broken, torch.arange(4))


def test_inputs_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="same D"):
        ranks(torch.eye(4), torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match="image_of_text has shape"):
        ranks(torch.eye(3), torch.eye(3), torch.arange(2))
    with pytest.raises(ValueError, match="outside"):
        ranks(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3]))
    given = torch.eye(3), torch.eye(3), torch.arange(3)
    with pytest.raises(ValueError, match="image_task"):
        retrieval_ranks(*given, torch.arange(2), tasks=[0], gallery="all")
    with pytest.raises(ConfigError, match="gallery"):
        retrieval_ranks(*given, torch.arange(3), tasks=[0], gallery="everything")  # type: ignore[arg-type]
