"""The pyramid, the head that runs over its levels, and region-token scores."""

import pytest
import torch
from torch.nn.functional import interpolate, normalize

from system.grounders.simple_glip.dense_head import PRIOR, DenseHead, FeaturePyramid, WordScores
from system.grounders.simple_glip.glip_config import HeadSizes

SIZES = HeadSizes(stages=(2, 3), extra_levels=1, channels=8, convolutions=1, norm_groups=2)


def test_fine_levels_get_what_coarser_ones_know() -> None:
    """Without the way down small objects are seen with no context."""
    torch.manual_seed(0)
    pyramid = FeaturePyramid((3, 5), SIZES)
    fine, coarse = torch.randn(2, 3, 6, 4), torch.randn(2, 5, 3, 2)
    found = pyramid([fine, coarse])
    assert [tuple(level.shape) for level in found] == [(2, 8, 6, 4), (2, 8, 3, 2), (2, 8, 2, 1)]
    top = pyramid.lateral[1](coarse)
    merged = pyramid.lateral[0](fine) + interpolate(top, size=(6, 4))
    assert torch.equal(found[0], pyramid.output[0](merged))
    assert torch.equal(found[1], pyramid.output[1](top))


def test_places_follow_each_other_level_after_level_and_row_after_row() -> None:
    """Anchors are dealt out in this order: another one would train boxes at wrong places."""
    torch.manual_seed(0)
    head = DenseHead(SIZES, levels=2)
    levels = [torch.randn(1, 8, 2, 3), torch.randn(1, 8, 1, 2)]
    regions, boxes, centres = head(levels)
    assert (regions.shape, boxes.shape, centres.shape) == ((1, 8, 8), (1, 8, 4), (1, 8))
    first = head.region(head.tower(levels[0]))
    torch.testing.assert_close(regions[0, 4], first[0, :, 1, 1])
    second = head.box(head.tower(levels[1])) * head.box_scale[1]
    torch.testing.assert_close(boxes[0, 7], second[0, :, 0, 1])


def test_word_scores_are_the_published_dot_product() -> None:
    torch.manual_seed(0)
    scores = WordScores(6, 8)
    with torch.no_grad():
        scores.log_scale.fill_(0.5)
    regions, words = torch.randn(1, 2, 8), torch.randn(1, 3, 6)
    unit = normalize(words, dim=-1)[0, 1]
    expected = regions[0, 1] @ scores.project(unit / 2) / torch.tensor(0.5).exp()
    found = scores(regions, words)
    torch.testing.assert_close(found[0, 1, 1], expected + scores.bias(unit)[0])
    untrained = torch.sigmoid(WordScores(6, 8).bias(torch.zeros(6)))
    assert untrained.item() == pytest.approx(PRIOR)
