"""Masks, and with them an image's task, are wrong or crash the C code if these fail."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from system.data.shards.masks import mask_area, mask_from_segmentation, run_lengths
from system.data.shards.schema import Mask
from system.errors import DataError


def naive_runs(pixels: NDArray[np.uint8]) -> list[int]:
    """Run lengths counted pixel by pixel, column by column, zeros first."""
    runs, value = [0], 0
    for pixel in pixels.ravel(order="F").tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.floats(0, 1))
def test_run_lengths_and_area_agree_with_counting(
    height: int, width: int, seed: int, density: float
) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.asfortranarray((rng.random((height, width)) < density).astype(np.uint8))
    encoded = coco_mask.encode(pixels)
    mask = mask_from_segmentation(encoded, height, width)
    assert run_lengths(mask).tolist() == naive_runs(pixels)
    assert mask_area(mask) == int(pixels.sum())
    plain = {"size": [height, width], "counts": naive_runs(pixels)}
    assert mask_from_segmentation(plain, height, width) == mask
    text = {"size": [height, width], "counts": encoded["counts"].decode()}
    assert mask_from_segmentation(text, height, width) == mask


def test_polygons_cover_their_union_and_are_clipped() -> None:
    square = [1, 1, 4, 1, 4, 4, 1, 4]
    right_edge = [8, 0, 30, 0, 30, 5, 8, 5]
    line = [0, 0, 9, 4]
    mask = mask_from_segmentation([square, square, right_edge, line], 5, 10)
    pixels = coco_mask.decode({"size": [5, 10], "counts": mask.counts})
    expected = np.zeros((5, 10), np.uint8)
    expected[1:4, 1:4] = 1
    expected[:, 8:] = 1
    np.testing.assert_array_equal(pixels, expected)
    assert mask_area(mask) == int(expected.sum())


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "neither a list of polygons nor"),
        ({"size": [4, 5]}, "neither a list of polygons nor"),
        ({"size": [5, 4], "counts": [20]}, r"size is \[5, 4\] but the image has height 4"),
        ({"size": [4, 5], "counts": [19]}, "covers 19 pixels but the image has 20"),
        ({"size": [4, 5], "counts": [-1, 21]}, "other than run lengths"),
        ({"size": [4, 5], "counts": 20}, "neither text nor a list"),
        ({"size": [4, 5], "counts": ""}, "characters that are not run lengths"),
        ({"size": [4, 5], "counts": "é"}, "covers|characters"),
        ({"size": [4, 5], "counts": " 4"}, "characters that are not run lengths"),
        ({"size": [4, 5], "counts": "oooooooooooo0"}, "far too large"),
        ({"size": [4, 5], "counts": "To"}, "ends inside a run length"),
        ({"size": [4, 5], "counts": "N"}, "negative run length"),
        ([], "no polygon of at least three points"),
        ([[0, 0, 3, 3]], "no polygon of at least three points"),
        ([[0, 0, 3, 0, 3]], "not a list of x, y pairs"),
        ([[0, 0, 3, 0, 3, float("inf")]], "not a list of x, y pairs"),
        (["M 0 0"], "not a list of x, y pairs"),
    ],
)
def test_segmentation_that_cannot_be_is_refused(segmentation: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mask_from_segmentation(segmentation, 4, 5)


def test_empty_mask_has_no_area() -> None:
    counts = coco_mask.encode(np.zeros((4, 5), np.uint8, order="F"))["counts"]
    assert mask_area(Mask(4, 5, counts)) == 0
