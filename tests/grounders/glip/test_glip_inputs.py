"""Images as a GLIP takes them: sizes, channels and boxes. Numbers are in tests/golden."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.grounders.glip.glip_inputs import (
    GlipPixels,
    Pictures,
    last_pixel_boxes,
    shortest_side,
)


def photograph(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_the_defaults_are_those_of_the_published_weights() -> None:
    """A config.json that names no preprocessing would shift every box of the real model."""
    assert Pictures() == Pictures(
        "shortest",
        800,
        1333,
        "bgr",
        "bilinear",
        (103.53, 116.28, 123.675),
        (57.375, 57.12, 58.395),
        "last_pixel",
    )


def test_every_choice_changes_the_pixels() -> None:
    image = photograph(30, 20)
    own = Pictures("squeeze", 16, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    plain = GlipPixels(own)(image, None)
    assert plain.shape == (3, 16, 16)
    resized = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).astype(np.float32)
    expected = (resized[..., ::-1] - [1, 2, 3]) / [4, 5, 6]
    np.testing.assert_allclose(plain.permute(1, 2, 0), expected, rtol=1e-5, atol=1e-5)
    rgb = Pictures("squeeze", 16, 1333, "rgb", mean=(3.0, 2.0, 1.0), std=(6.0, 5.0, 4.0))
    torch.testing.assert_close(GlipPixels(rgb)(image, None), plain.flip(0))
    bicubic = Pictures("squeeze", 16, resampling="bicubic", mean=own.mean, std=own.std)
    assert not torch.allclose(GlipPixels(bicubic)(image, None), plain, atol=0.01)
    shortest = GlipPixels(Pictures("shortest", 16))(image, None)
    assert shortest.shape == (3, 16, 24)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((1, 2000), (1, 2000)),  # as released: 1333 / 2000 rounds to the one pixel that it has
        ((2000, 1), (2000, 1)),
        ((1, 2667), (1, 1333)),  # for which the released code asks for a side of 0
        ((90_000, 3), (1333, 1)),
        ((2, 3000), (1, 1500)),
        ((1, 1), (800, 800)),
    ],
)
def test_no_image_is_too_narrow(given: tuple[int, int], expected: tuple[int, int]) -> None:
    """An image of no pixels, or of millions, would end a run in the middle of an epoch."""
    assert shortest_side(*given, 800, 1333) == expected


@pytest.mark.parametrize("rule", ["squeeze", "shortest"])
def test_a_line_of_pixels_goes_through(rule: str) -> None:
    pictures = parse_dataclass(Pictures, {"size_rule": rule, "image_size": 32}, "pictures")
    found = GlipPixels(pictures)(photograph(1, 2000), None)
    assert found.shape == ((3, 32, 32) if rule == "squeeze" else (3, 2000, 1))
    assert torch.isfinite(found).all()


def test_images_in_other_modes_and_other_processes() -> None:
    """Workers get the transform by pickle; files are grey or have a palette."""
    transform = pickle.loads(pickle.dumps(GlipPixels(Pictures("squeeze", 8))))
    grey = photograph(9, 9).convert("L")
    assert torch.equal(transform(grey, None), transform(grey.convert("RGB"), None))


def test_it_says_what_it_does() -> None:
    assert "448 x 448" in str(GlipPixels(Pictures("squeeze", 448)))
    text = str(GlipPixels(Pictures()))
    assert "800" in text
    assert "1,333" in text


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"image_size": 0}, "image_size"),
        ({"longest": 700}, "longest"),
        ({"mean": [0.0]}, "mean"),
        ({"size_rule": "crop"}, "size_rule"),
        ({"channels": "grey"}, "channels"),
        ({"box_end": "middle"}, "box_end"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(values: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        parse_dataclass(Pictures, values, "config.json")


def test_boxes_end_at_their_last_pixel() -> None:
    """A box of one pixel and one outside would lose their extent: they keep what they had."""
    sides = torch.tensor([40.0, 20, 40, 20])
    boxes = torch.tensor([[0, 0, 40, 20], [10, 5, 30, 15], [7, 3, 8, 9], [50, 3, 60, 9]]) / sides
    expected = torch.tensor([[0, 0, 39, 19], [10, 5, 29, 14], [7, 3, 8, 9], [50, 3, 60, 9]])
    torch.testing.assert_close(last_pixel_boxes(boxes, 40, 20) * sides, expected.float())
    assert last_pixel_boxes(torch.zeros(0, 4), 40, 20).shape == (0, 4)
