"""What is multiplied, how much at once, by whom, and in which precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from system.results.ranks import QueryRanks, retrieval_ranks
from system.results.score_tiles import Share, Tile
from tests.results.naive_ranks import naive_retrieval_ranks
from tests.results.test_ranks import assert_equal

IMAGES, CAPTIONS, WIDTH, TASKS = 60, 5, 16, 4


def features(rounded: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of images, of texts, whose image, and of which task."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, WIDTH, generator=generator)
    own = torch.arange(IMAGES).repeat_interleave(CAPTIONS)
    texts = images[own] + torch.randn(len(own), WIDTH, generator=generator)
    if rounded:  # open pairs, in all of which float32 decides nothing
        images, texts = images.sign(), texts.sign()
    return images, texts, own, torch.arange(IMAGES) * TASKS // IMAGES


def found(gallery: Any = "all", rounded: bool = False, **options: Any) -> list[QueryRanks]:
    return retrieval_ranks(
        *features(rounded), tasks=range(TASKS), gallery=gallery, seen=[0, 1], **options
    )


def multiplications(gallery: Any, share: Share = Share()) -> float:  # noqa: B008 - frozen
    """Of matrices, in pairs of an image and a text."""
    with FlopCounterMode(display=False) as counter:
        found(gallery, tile=Tile(20, 75), share=share)
    return float(counter.get_total_flops() / (2 * WIDTH))


def test_both_directions_and_all_tasks_come_from_one_product() -> None:
    """Once per direction and task is eight times the arithmetic here."""
    assert multiplications("all") == IMAGES * IMAGES * CAPTIONS


def test_what_no_query_searches_is_not_multiplied() -> None:
    own = IMAGES // TASKS  # images of a task
    assert multiplications("task") == TASKS * own * own * CAPTIONS
    # Two tasks are seen: all search them, and the other two their own.
    pairs = (2 * own) ** 2 + 2 * (2 * own) * (2 * own) + 2 * own**2
    assert multiplications("seen") == pairs * CAPTIONS


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most entries that any tensor had which an operation made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        self.entries = max(self.entries, *sizes, 0)
        return made


@pytest.mark.parametrize("rounded", [False, True])
def test_the_tile_bounds_every_tensor(rounded: bool) -> None:
    """A gallery of 40,000 x 200,000 would take 32 GB; there are the features and a tile."""
    whole = IMAGES * IMAGES * CAPTIONS
    once = IMAGES * CAPTIONS * WIDTH  # the features, which are there anyway
    with Largest() as largest:
        found(rounded=rounded, tile=Tile(8, 300))
    assert largest.entries <= max(2 * 8 * 300, once) < whole / 3


@pytest.mark.parametrize("gallery", ["all", "seen", "task"])
@pytest.mark.parametrize("rounded", [False, True])
def test_every_part_of_the_work_ends_with_the_same_ranks(gallery: Any, rounded: bool) -> None:
    """A part that is counted twice, or by nobody, is a wrong recall on every worker."""
    size = 3
    brought: list[list[Tensor]] = [[] for _ in range(size)]  # by each part, in the order asked for

    def compute(rank: int, total: Callable[[Tensor], Tensor]) -> list[QueryRanks]:
        return found(gallery, rounded, tile=Tile(7, 11), share=Share(rank, size, total))

    def bring(to: list[Tensor], counts: Tensor) -> Tensor:
        to.append(counts.clone())
        return counts

    for rank, to in enumerate(brought):
        compute(rank, partial(bring, to))
    expected = naive_retrieval_ranks(
        *features(rounded), tasks=range(TASKS), gallery=gallery, seen=[0, 1]
    )
    for rank in range(size):
        sums = iter([torch.stack(parts).sum(0) for parts in zip(*brought, strict=True)])

        def total(_: Tensor, sums: Iterator[Tensor] = sums) -> Tensor:
            return next(sums)

        assert_equal(compute(rank, total), expected)


def test_four_workers_multiply_a_quarter_each() -> None:
    whole = multiplications("all")
    parts = [multiplications("all", Share(rank, 4)) for rank in range(4)]
    assert parts == [whole / 4] * 4
    assert sum(multiplications("seen", Share(rank, 4)) for rank in range(4)) == multiplications(
        "seen"
    )


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_process_that_allows_less_precision_gets_the_same_ranks(precision: Any) -> None:
    """TF32 and bf16 err by far more than the bound from which on float32 decides alone."""
    expected = found()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert_equal(found(), expected)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
