"""The feature pyramid. The released code's numbers are in tests/golden."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from system.grounders.glip.dynamic_head import DynamicHead
from system.grounders.glip.pyramid import FeaturePyramid

WIDTHS, SIZES = (4, 6, 10), [(13, 9), (7, 5), (4, 3)]


def tower() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, width, *size) for width, size in zip(WIDTHS, SIZES, strict=True)]


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_levels_are_as_the_head_wants_them(levels: int, extra: int) -> None:
    """Also on images whose sides are multiples of nothing."""
    given = tower()[-levels:]
    found = FeaturePyramid(WIDTHS[-levels:], 8, extra)(given)
    sizes = [*SIZES[-levels:], (2, 2), (1, 1)][: levels + extra]
    assert [tuple(level.shape) for level in found] == [(2, 8, *size) for size in sizes]
    assert len(DynamicHead(8, 1, 4)(found)) == levels + extra


def test_coarser_levels_reach_finer_ones_and_not_the_other_way() -> None:
    pyramid, levels = FeaturePyramid(WIDTHS, 8, 0), tower()
    before = pyramid(levels)
    for changed, expected in ((0, [True, False, False]), (2, [True, True, True])):
        other = [level + (index == changed) for index, level in enumerate(levels)]
        pairs = zip(before, pyramid(other), strict=True)
        assert [not torch.equal(*pair) for pair in pairs] == expected


def test_only_the_second_extra_level_reads_through_a_relu() -> None:
    pyramid, levels = FeaturePyramid(WIDTHS, 8, 2), tower()
    first, second = pyramid.extra
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    *_, last, sixth, seventh = pyramid(levels)
    assert (last < 0).any()
    torch.testing.assert_close(sixth, first(last))
    torch.testing.assert_close(seventh, second(sixth.relu()))
