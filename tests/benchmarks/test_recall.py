"""Ranks against the float32 product alone and against float64; their shares and their memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from system.results.ranks import QueryRanks, retrieval_ranks
from system.results.score_tiles import Share, Tile
from tests.benchmarks.conftest import Performance
from tests.results.naive_ranks import naive_retrieval_ranks

IMAGES, CAPTIONS, WIDTH, TIMES = 5_000, 5, 512, 3
WORKERS = 4
Result = TypeVar("Result")


def features(images: int, width: int, noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of images, of five texts an image, whose image, and of which task."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(images, width, generator=generator)
    text = torch.empty(images * CAPTIONS, width).normal_(generator=generator).mul_(noise)
    text.view(images, CAPTIONS, width).add_(image[:, None])
    own = torch.arange(images).repeat_interleave(CAPTIONS)
    return image, text, own, torch.arange(images) * 12 // images


def found(given: tuple[Tensor, ...], share: Share = Share()) -> list[QueryRanks]:  # noqa: B008
    return retrieval_ranks(*given, tasks=range(12), gallery="all", share=share)


def timed(compute: Callable[[], Result]) -> tuple[float, Result]:
    start = time.perf_counter()
    result = compute()
    return time.perf_counter() - start, result


@pytest.mark.benchmark
def test_ranks_against_the_product_alone(performance: Performance) -> None:
    """Both directions of a test set of MSCOCO's size, with ranks as of a trained model."""
    given = features(IMAGES, WIDTH, 5.0)
    image, text = (torch.nn.functional.normalize(rows, dim=1) for rows in given[:2])
    tile = Tile.on(image.device)
    room = torch.empty(tile.pairs)

    def product() -> None:
        for rows in torch.split(image, tile.images):
            for columns in torch.split(text, tile.texts):
                scores = room[: len(rows) * len(columns)].view(len(rows), len(columns))
                torch.mm(rows, columns.T, out=scores)

    def naive() -> list[QueryRanks]:
        return naive_retrieval_ranks(*given, tasks=range(12), gallery="all")

    # In turn, so that what else runs on the machine meets all; the least is the least disturbed.
    rounds = [(timed(lambda: found(given)), timed(product)[0]) for _ in range(TIMES)]
    ours, bare = min(each[0][0] for each in rounds), min(each[1] for each in rounds)
    slow, expected = timed(naive)
    for one, other in zip(rounds[0][0][1], expected, strict=True):
        assert torch.equal(one.ranks, other.ranks)
        assert torch.equal(one.precision, other.precision)
    what = f"ranks of {len(image):,} images and {len(text):,} texts, both ways"
    performance.compare(
        what, ours=ours, other=bare, unit="s", against="the float32 product alone", aim="<= 2"
    )
    performance.compare(
        what, ours=ours, other=slow, unit="s", against="float64, each direction and task by itself"
    )


@pytest.mark.benchmark
def test_four_workers_take_a_quarter_each(performance: Performance) -> None:
    given = features(IMAGES, WIDTH, 5.0)

    def counted(share: Share) -> tuple[float, float]:
        with FlopCounterMode(display=False) as counter:
            seconds, _ = timed(lambda: found(given, share))
        return seconds, counter.get_total_flops() / (2 * WIDTH)

    whole = counted(Share())
    parts = [counted(Share(rank, WORKERS)) for rank in range(WORKERS)]
    for name, unit, place in (("scores multiplied", "scores", 1), ("time", "s", 0)):
        performance.compare(
            f"ranks of {IMAGES:,} images: {name} by the worker of {WORKERS} that has the most",
            ours=max(part[place] for part in parts),
            other=whole[place],
            unit=unit,
            against="by one alone",
            aim=f"{1 / WORKERS:g}",
        )
    assert sum(part[1] for part in parts) == whole[1] == len(given[0]) * len(given[1])


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_of(compute: Callable[[], object]) -> float:
    """The most of resident megabytes above those at the start, looked at each millisecond."""
    base = peak = _resident_megabytes()
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _resident_megabytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        compute()
    finally:
        done.set()
        sampler.join()
    return peak - base


@pytest.mark.benchmark
def test_memory_of_a_gallery_of_200000_texts(performance: Performance) -> None:
    """One of 32 workers' shares: it holds what a worker that has all of them to itself holds."""
    images, width = 40_000, 128
    given = features(images, width, 2.0)
    peak = peak_of(lambda: found(given, Share(0, 32)))
    performance.compare(
        f"ranks of {images:,} images and {len(given[1]):,} texts, peak of memory",
        ours=peak,
        other=4 * len(given[0]) * len(given[1]) / 2**20,
        unit="MB",
        against="all scores at once in float32",
    )
    inputs = sum(part.numel() * part.element_size() for part in given) / 2**20
    assert peak < 4 * inputs + 200, (peak, inputs)
