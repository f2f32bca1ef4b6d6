"""The machine's own limits, which no code passes: products of matrices, and decoding JPEGs."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from tests.benchmarks.conftest import Performance
from tests.benchmarks.plain_step import in_turn, plain_batch, plain_vit_b16

SIDE, ROUNDS = 2048, 5
BATCH, IMAGES = 8, 32


def gemm_flops(dtype: torch.dtype = torch.float32, rounds: int = ROUNDS) -> float:
    """FLOP/s of the best of a few square products."""
    a = torch.randn(SIDE, SIDE).to(dtype)
    return 2 * SIDE**3 / in_turn({"product": lambda: a @ a}, rounds)["product"]


def photographs(count: int = 8, size: tuple[int, int] = (640, 480)) -> list[bytes]:
    """JPEGs of smooth noise, as large as MSCOCO's."""
    found = []
    for seed in range(count):
        coarse = np.random.default_rng([seed]).integers(0, 256, (48, 64, 3), np.uint8)
        stream = BytesIO()
        Image.fromarray(coarse).resize(size).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def decode_rate(draft: int | None = None, images: int = IMAGES) -> float:
    """JPEGs of 640 x 480 that a thread decodes per second; `draft`: to at least so many pixels."""
    files = photographs()

    def decode() -> None:
        for number in range(images):
            image = Image.open(BytesIO(files[number % len(files)]))
            if draft is not None:
                image.draft("RGB", (draft, draft))
            image.load()

    return images / in_turn({"decode": decode}, 3)["decode"]


def rate(run: Callable[[], object], rounds: int) -> float:
    """Runs per second, the best of a few."""
    run()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return 1 / best


@pytest.mark.benchmark
def test_frozen_vit_b16_against_the_products_of_this_machine(performance: Performance) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    clip = plain_vit_b16()
    pixels, _ = plain_batch(clip, BATCH)

    def forward() -> None:
        with torch.inference_mode():
            clip.get_image_features(pixels)

    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        clip_sizes = plain_vit_b16().to("meta")
        clip_sizes.get_image_features(pixels.to("meta"))
    reached = counter.get_total_flops() * rate(forward, 3)
    performance.compare(
        f"frozen ViT-B/16 forward, batch {BATCH}, float32",
        ours=reached / 1e9,
        other=gemm_flops() / 1e9,
        unit="GFLOP/s",
        against=f"a product of {SIDE} x {SIDE}",
    )


@pytest.mark.benchmark
def test_bf16_products_against_float32(performance: Performance) -> None:
    performance.compare(
        f"a product of {SIDE} x {SIDE} in bf16",
        ours=gemm_flops(torch.bfloat16) / 1e9,
        other=gemm_flops() / 1e9,
        unit="GFLOP/s",
        against="float32",
    )


@pytest.mark.benchmark
def test_decoding_in_draft_mode_against_decoding_whole(performance: Performance) -> None:
    performance.compare(
        "decoding a 640 x 480 JPEG in draft mode for 224 pixels, one thread",
        ours=decode_rate(224),
        other=decode_rate(),
        unit="images/s",
        against="decoding it whole",
    )
