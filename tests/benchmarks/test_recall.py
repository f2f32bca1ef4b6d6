"""Chunked ranks against all scores at once: time and memory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from system.results.ranks import TIE_TOLERANCE, ranks_from_scores, text_to_image_ranks

IMAGES, CAPTIONS, WIDTH = 2000, 5, 256


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _measure(compute: Callable[[], Tensor]) -> tuple[float, float, Tensor]:
    """Seconds, the peak of resident megabytes above the start (sampled), and the result."""
    base = _resident_megabytes()
    peak, done = base, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _resident_megabytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    try:
        result = compute()
        seconds = time.perf_counter() - start
    finally:
        done.set()
        sampler.join()
    return seconds, peak - base, result


@pytest.mark.benchmark
def test_chunked_ranks_against_all_scores(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, WIDTH, generator=generator)
    noise = torch.randn(IMAGES * CAPTIONS, WIDTH, generator=generator)
    texts = images.repeat(CAPTIONS, 1) + 5 * noise
    image = torch.arange(IMAGES)
    image_of_text = image.repeat(CAPTIONS)

    def all_at_once() -> Tensor:
        unit = torch.nn.functional.normalize
        scores = unit(texts.double(), dim=1) @ unit(images.double(), dim=1).T
        return ranks_from_scores(scores, image_of_text, image, tie_tolerance=TIE_TOLERANCE)

    seconds, memory, ranks = _measure(lambda: text_to_image_ranks(texts, images, image_of_text))
    naive_seconds, naive_memory, naive_ranks = _measure(all_at_once)
    assert torch.equal(ranks, naive_ranks)
    with capsys.disabled():
        sys.stdout.write(
            f"\nranks of {len(texts)} texts in {len(images)} images: "
            f"chunked {seconds:.2f} s, {memory:.0f} MB; "
            f"all at once {naive_seconds:.2f} s, {naive_memory:.0f} MB; "
            f"time x{seconds / naive_seconds:.2f}, memory x{memory / naive_memory:.2f}\n"
        )
