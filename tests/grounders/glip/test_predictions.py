"""What is read from the head's levels: the order of places, and the score of each token."""

import pytest
import torch

from system.grounders.glip.predictions import PRIOR, BoxPredictions, TokenScores, places


def test_places_follow_each_other_level_after_level_and_row_after_row() -> None:
    """Anchors are dealt out in this order: another one would train boxes at wrong places."""
    torch.manual_seed(0)
    predictions = BoxPredictions(8, levels=2)
    with torch.no_grad():
        predictions.scales.copy_(torch.tensor([1.0, 3.0]))
    levels = [torch.randn(1, 8, 2, 3), torch.randn(1, 8, 1, 2)]
    deltas, centres = predictions(levels)
    assert (deltas.shape, centres.shape) == ((1, 8, 4), (1, 8))
    torch.testing.assert_close(places(levels[0])[0, 4], levels[0][0, :, 1, 1])
    torch.testing.assert_close(deltas[0, 4], predictions.deltas(levels[0])[0, :, 1, 1])
    torch.testing.assert_close(deltas[0, 7], 3 * predictions.deltas(levels[1])[0, :, 0, 1])
    torch.testing.assert_close(centres[0, 7], predictions.centreness(levels[1])[0, 0, 0, 1])


def test_token_scores_are_the_published_dot_product() -> None:
    torch.manual_seed(0)
    scores = TokenScores(6, 8)
    with torch.no_grad():
        scores.log_scale.fill_(0.5)
        scores.bias.weight.normal_()
    regions, tokens = torch.randn(1, 2, 8), torch.randn(1, 3, 6)
    unit = tokens[0, 1] / tokens[0, 1].norm()
    expected = regions[0, 1] @ scores.project(unit / 2) / torch.tensor(0.5).exp()
    found = scores(regions, tokens)
    torch.testing.assert_close(found[0, 1, 1], expected + scores.bias(unit)[0])
    assert scores(1e9 * regions, tokens).abs().max() == 50_000
    untrained = torch.sigmoid(TokenScores(6, 8).bias(torch.zeros(6)))
    assert untrained.item() == pytest.approx(PRIOR)
