"""Deformable convolution against a loop and against a plain im2col, as ratios of one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import unfold

from system.grounders.glip.deformable import modulated_deform_conv, output_size
from tests.benchmarks.conftest import Performance
from tests.grounders.glip.naive_deformable import deform_by_loop

#: Samples, channels, side, stride: the finest level of a photograph at full width, a small model's
#: batch, its branch from a finer level.
CASES = ((1, 256, 56, 1), (16, 64, 14, 1), (16, 64, 28, 2))
SMALLEST = (1, 64, 6, 1)  # the loop takes a second or more
RUNS = 5

Convolution = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]


def im2col(
    x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    """The plain convolution of the same sizes: what is left when the taps stand still."""
    columns = unfold(x, 3, padding=1, stride=stride)
    found = weight.flatten(1) @ columns + bias[:, None]
    return found.view(len(x), len(weight), *offset.shape[-2:])


def seconds(convolve: Convolution, given: list[Tensor], stride: int) -> tuple[float, float]:
    """Of the processor: for a forward pass, and for a forward and a backward pass."""
    x, offset, modulation, weight, bias = given
    start = time.process_time()
    found = convolve(x, offset, modulation, weight, bias, stride)
    forward = time.process_time() - start
    torch.autograd.grad(found.sum(), given, allow_unused=True)
    return forward, time.process_time() - start


def least_seconds(
    other: Convolution, case: tuple[int, int, int, int], runs: int
) -> tuple[list[float], list[float]]:
    """Ours and the other's: of a forward pass, and of a forward and a backward pass."""
    batch, channels, side, stride = case
    torch.manual_seed(0)
    x = torch.randn(batch, channels, side, side)
    size = output_size(x, stride)
    given = [
        x,
        torch.randn(batch, 18, *size),
        torch.rand(batch, 9, *size),
        torch.randn(channels, channels, 3, 3),
        torch.randn(channels),
    ]
    for value in given:
        value.requires_grad_()
    # In turn, and the least of each, so that what else runs on the machine meets both alike.
    pairs = [
        (seconds(modulated_deform_conv, given, stride), seconds(other, given, stride))
        for _ in range(runs)
    ]
    ours, others = zip(*pairs, strict=True)
    return [min(times) for times in zip(*ours, strict=True)], [
        min(times) for times in zip(*others, strict=True)
    ]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On several, a busy machine's share of waiting for each other is measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.benchmark
@pytest.mark.usefixtures("one_thread")
def test_deformable_convolution_in_time(performance: Performance) -> None:
    both: tuple[list[float], list[float]] = ([], [])
    for against, convolve, cases, runs in (
        ("im2col of a plain convolution", im2col, CASES, RUNS),
        ("a loop over taps", deform_by_loop, (SMALLEST,), 1),
    ):
        for case in cases:
            both = least_seconds(convolve, case, runs)
            for index, passes in enumerate(("forward", "forward and backward")):
                performance.compare(
                    f"deformable convolution, {case[0]} x {case[1]} channels, side {case[2]}, "
                    f"stride {case[3]}, {passes}",
                    ours=1e3 * both[0][index],
                    other=1e3 * both[1][index],
                    unit="ms of processor",
                    against=against,
                )
    (_, ours), (_, loop) = both
    assert ours < loop
