"""The loss terms of Grounding DINO: summed over stages, weighted, undefined where boxes are."""

from types import SimpleNamespace

import torch

from system.grounders.dino.dino_losses import loss_terms, sample_losses

CONFIG = SimpleNamespace(bbox_loss_coefficient=5.0, giou_loss_coefficient=3.0)


def test_terms_are_weighted_sums_over_encoder_and_decoder_stages() -> None:
    """A stage that is left out, or a weight twice, would train another detector."""
    one = torch.tensor([1.0, 2.0])
    terms = {
        f"loss_{name}{stage}": factor * one
        for name, factor in (("ce", 1.0), ("bbox", 10.0), ("giou", 100.0))
        for stage in ("", "_0", "_enc")
    }
    found = loss_terms(terms, CONFIG)
    assert list(found) == ["ce", "bbox", "giou"]
    assert torch.equal(found["ce"], 2 * 3 * one)
    assert torch.equal(found["bbox"], 5 * 30 * one)
    assert torch.equal(found["giou"], 3 * 300 * one)


def test_boxes_that_are_not_finite_give_a_loss_that_is_not() -> None:
    """The library would raise about corners of boxes; a diverged training has a better message."""
    boxes, logits = torch.full((2, 4, 4), 0.5), torch.zeros(2, 4, 3)
    boxes[1, 0, 0] = torch.nan
    _, terms, _ = sample_losses(
        logits, [{}, {}], logits.device, boxes, CONFIG, [], logits, logits, boxes, logits, boxes
    )
    assert set(terms) == {"loss_ce", "loss_bbox", "loss_giou"}
    assert all(torch.isfinite(value).tolist() == [True, False] for value in terms.values())
