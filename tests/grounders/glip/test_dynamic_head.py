"""The dynamic head. The released code's numbers are in tests/golden."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from system.grounders.glip.dynamic_head import (
    DynamicBlock,
    DynamicHead,
    DynamicReLU,
    Upsampling,
)

SIZES = [(7, 9), (4, 5), (2, 3)]


def pyramid(sizes: list[tuple[int, int]] = SIZES, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 8, *size, generator=generator) for size in sizes]


def head(blocks: int = 1, upsampling: Upsampling = "bilinear") -> DynamicHead:
    """Weights from a seed; offsets that move taps, unlike those that a training starts with."""
    torch.manual_seed(0)
    made = DynamicHead(8, blocks, 4, upsampling)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.requires_grad_(False)


def test_levels_keep_their_sizes_and_are_not_written_to() -> None:
    levels = pyramid()
    before = [level.clone() for level in levels]
    found = head(blocks=2)(levels)
    assert [level.shape for level in found] == [level.shape for level in levels]
    assert all(torch.equal(level, kept) for level, kept in zip(levels, before, strict=True))


@pytest.mark.parametrize(
    ("changed", "within_one"), [(0, [True, True, False]), (2, [False, True, True])]
)
def test_a_block_reads_the_next_levels_of_the_block_before_only(
    changed: int, within_one: list[bool]
) -> None:
    """A change at one end of the pyramid reaches the other after two blocks, not within one."""
    levels = pyramid()
    others = [level + (index == changed) for index, level in enumerate(levels)]

    def differ(blocks: int) -> list[bool]:
        made = head(blocks)
        return [not torch.equal(*pair) for pair in zip(made(levels), made(others), strict=True)]

    assert differ(1) == within_one
    assert differ(2) == [True, True, True]


def test_one_level_has_neither_finer_nor_coarser_branch() -> None:
    made = head().requires_grad_()
    (found,) = made(pyramid([(4, 5)]))
    found.sum().backward()
    without = {name for name, parameter in made.named_parameters() if parameter.grad is None}
    assert {name.split(".")[2] for name in without} == {"finer", "coarser"}


def test_samples_of_a_batch_do_not_mix() -> None:
    """Each image's own boxes, whatever stands beside it; also its leading offsets."""
    levels = pyramid()
    together, alone = head(2)(levels), head(2)([level[1:] for level in levels])
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1:], one)


def test_the_coarser_branch_reads_the_leading_offsets_alone() -> None:
    block = head().blocks[0]
    assert isinstance(block, DynamicBlock)
    _, level, coarse = pyramid()
    offset, modulation = (shift.requires_grad_() for shift in block.shifts(level))
    gradients = torch.autograd.grad(
        block.coarser(coarse, offset, modulation).square().sum(), (offset, modulation)
    )
    for gradient, channels in zip(gradients, (18, 9), strict=True):
        leading = channels * coarse.shape[-2] * coarse.shape[-1]
        assert gradient.flatten(1)[:, :leading].any(dim=1).all()
        assert not gradient.flatten(1)[:, leading:].any()


def test_upsampling_is_the_papers_choice() -> None:
    """The coarsest level has no coarser one: there the two agree."""
    levels = pyramid()
    bilinear, nearest = head()(levels), head(upsampling="nearest")(levels)
    equal = [torch.equal(*pair) for pair in zip(bilinear, nearest, strict=True)]
    assert equal == [False, False, True]


@pytest.mark.parametrize("sizes", [[(7, 9), (4, 4)], [(7, 9), (3, 4)], [(4, 4), (4, 4)]])
def test_levels_that_do_not_halve_are_refused(sizes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="half of the one before"):
        head()(pyramid(sizes))


def test_training_from_scratch_reaches_every_weight() -> None:
    """Offsets start at zero, which must not keep them there."""
    torch.manual_seed(0)
    made = DynamicHead(8, 1, 4)
    levels = pyramid()
    targets = [torch.randn_like(level) for level in levels]
    optimiser = torch.optim.Adam(made.parameters(), lr=2e-2)
    losses = []
    for _ in range(8):
        found = zip(made(levels), targets, strict=True)
        loss = torch.stack([(level - target).square().mean() for level, target in found]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in made.parameters()
    )
    assert losses[-1] < 0.9 * losses[0]


def test_runs_under_autocast() -> None:
    levels = pyramid()
    expected = head(2)(levels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(2)(levels)
    for half, full in zip(found, expected, strict=True):
        assert (half - full).abs().mean() <= 3e-2 * full.abs().mean()


def test_dynamic_relu_starts_near_relu() -> None:
    activation = DynamicReLU(8)
    for parameter in activation.excite.parameters():
        torch.nn.init.zeros_(parameter)
    x = pyramid()[0]
    assert torch.equal(activation(x), x.relu())
