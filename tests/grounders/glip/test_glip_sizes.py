"""A GLIP on images of unlike sizes, and the boxes that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from system.data.shards.padding import PaddedImages, padded_together
from system.data.shards.split_objects import read_expressions
from system.grounders.entries import Entries
from system.grounders.glip.glip import Glip
from system.grounders.glip.glip_files import build_network, save_glip
from system.grounders.glip.glip_inputs import Pictures
from system.grounders.grounder import GroundingBatch
from system.objectives.grounding.chosen_expressions import ChosenExpressions
from system.objectives.grounding.grounding_training import Sample, grounding_batch
from tests.diff_prompt.mask_files import SIDE, prepare_shapes
from tests.grounders.small_glip import BOXES, TEXTS, loaded, write_small_glip

#: Each is padded to (64, 96): alone and together, the network sees the same.
SIZES = [(61, 75), (40, 96), (64, 70)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_glip(tmp_path_factory.mktemp("glip"))


@pytest.fixture(scope="module")
def published(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Glip:
    """The small GLIP with the preprocessing of published weights."""
    small = loaded(directory)
    config = replace(small.network.config, pictures=Pictures(image_size=40, longest=96))
    network = build_network(config)
    network.load_state_dict(small.network.state_dict())
    folder = tmp_path_factory.mktemp("published")
    save_glip(folder, network, small.tokenizer)
    return loaded(folder)


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(3, *size, generator=generator) for size in SIZES]


def batch(grounder: Glip, chosen: list[int]) -> GroundingBatch:
    pixels, sizes = padded_together([images()[i] for i in chosen], grounder.side_multiple)
    assert pixels.shape[-2:] == (64, 96)
    tokens = grounder.tokenize(TEXTS).ids[chosen], grounder.tokenize(TEXTS).mask[chosen]
    return GroundingBatch(
        pixels,
        replace(grounder.tokenize(TEXTS), ids=tokens[0], mask=tokens[1]),
        [torch.tensor(BOXES[i]) for i in chosen],
        sizes,
    )


def test_each_image_has_its_own_size_in_a_batch(published: Glip) -> None:
    """Boxes in shares of the padded size would all be too small, and no metric would say why."""
    together = published.ground(batch(published, [0, 1, 2]), Entries())
    losses = published.losses(batch(published, [0, 1, 2]), Entries())
    features = published.image_features(
        batch(published, [0, 1, 2]).images, batch(published, [0, 1, 2]).sizes
    )
    for index, found in enumerate(together):
        one = batch(published, [index])
        (alone,) = published.ground(one, Entries())
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-4, atol=1e-4)
        assert 0 <= float(found.boxes.min()) <= float(found.boxes.max()) <= 1
        for name, loss in published.losses(one, Entries()).items():
            torch.testing.assert_close(losses[name][index], loss[0], rtol=1e-4, atol=1e-4)
        own = published.image_features(one.images, one.sizes)
        torch.testing.assert_close(features[index], own[0], rtol=1e-4, atol=1e-4)
    whole = replace(batch(published, [0]), sizes=None)
    (padded,) = published.ground(whole, Entries())
    network = torch.tensor([96.0, 64, 96, 64])
    shares = torch.tensor([75.0, 61, 75, 61])
    # The best one, far from the edge at which it would be cut.
    inside = (padded.boxes * network < shares - 2).all(dim=1)
    first = int(inside.nonzero()[0])
    expected = padded.boxes[first] * network / shares
    assert torch.isclose(together[0].boxes, expected, atol=1e-4).all(dim=1).any()


def test_its_shape_promises_no_sides_where_images_differ(published: Glip, directory: Path) -> None:
    """A prompt that fits a square would be looked for where an image has no place for it."""
    assert published.shape.level_sides == published.shape.vision_sides == ()
    square = loaded(directory)
    assert square.shape.level_sides
    assert square.shape.vision_sides
    assert published.shape.image_size == 40


def test_boxes_to_be_learned_end_where_the_weights_have_it(
    published: Glip, directory: Path, tmp_path: Path
) -> None:
    """GLIP's end at their last pixel: of a small object one more is a different box."""
    handle = prepare_shapes(tmp_path).task("disk").handle("train")
    expressions = [replace(e, text=TEXTS[0]) for e in read_expressions(handle)][:2]
    chosen = ChosenExpressions(handle, range(2), expressions)
    given = PaddedImages(torch.zeros(2, 3, 64, 96))
    samples = [Sample(0, 0), Sample(0, 1)]
    for grounder, pixels in ((published, 1.0), (loaded(directory), 0.0)):
        made = grounding_batch([chosen], samples, given, grounder, torch.device("cpu"))
        for target, expression in zip(made.targets, expressions, strict=True):
            shift = torch.tensor([0, 0, pixels, pixels]) / SIDE
            expected = (torch.tensor([expression.box]) - shift).clamp(max=1 - pixels / SIDE)
            torch.testing.assert_close(target, expected)
