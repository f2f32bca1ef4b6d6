"""Anchors and deltas against their formulas, box by box."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from system.grounders.glip.box_coder import pixel_overlap, pyramid_anchors

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "strides", "scale"),
    [
        ([(3, 5)], [4], 2.0),
        ([(8, 8), (4, 4)], [8, 16], 3.5),
        ([(7, 11), (4, 6), (2, 3), (1, 2), (1, 1)], [8, 16, 32, 64, 128], 8),
    ],
)
def test_each_place_has_a_square_around_the_middle_of_its_pixels(
    sizes: list[tuple[int, int]], strides: list[int], scale: float
) -> None:
    """Any number of levels; a shift of half a pixel moves every box that is found."""
    anchors = pyramid_anchors(sizes, strides, scale, CPU)
    assert anchors.per_level == tuple(height * width for height, width in sizes)
    expected = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        for row in range(height):  # rows first
            for column in range(width):
                pixels = range(column * stride, (column + 1) * stride)
                x = sum(pixels) / stride
                y = row * stride + (stride - 1) / 2
                reach = (scale * stride - 1) / 2
                expected.append([x - reach, y - reach, x + reach, y + reach])
    assert anchors.boxes.tolist() == expected
    assert anchors.boxes.dtype == torch.float32


def test_levels_of_sizes_and_strides_must_agree() -> None:
    with pytest.raises(ValueError, match="shorter"):
        pyramid_anchors([(2, 2), (1, 1)], [8], 8, CPU)


def test_zeros_are_the_anchor_and_deltas_move_and_grow_it() -> None:
    anchors = pyramid_anchors([(2, 2)], [8], 4, CPU)  # 32 pixels wide, the last one part of them
    torch.testing.assert_close(anchors.decode(torch.zeros(4, 4)), anchors.boxes)
    deltas = torch.tensor([10.0, -5.0, 5 * math.log(2), 5 * math.log(0.5)]).expand(3, 4, 4)
    box = anchors.decode(deltas)[2, 0].tolist()
    middle = (3.5 + 32, 3.5 - 16)  # by one side to the right, and half a one up
    expected = [middle[0] - 31.5, middle[1] - 7.5, middle[0] + 31.5, middle[1] + 7.5]
    assert box == pytest.approx(expected, abs=1e-4)


def test_no_delta_makes_a_box_infinite() -> None:
    """A head that has learned nothing may say anything; one infinity spoils all gradients."""
    anchors = pyramid_anchors([(1, 1)], [8], 8, CPU)
    deltas = torch.full((1, 4), 1e4, requires_grad=True)
    boxes = anchors.decode(deltas)
    assert (boxes[0, 2] - boxes[0, 0] + 1).item() == pytest.approx(64 * 1000 / 16, rel=1e-4)
    torch.autograd.backward(boxes.sum())
    assert deltas.grad is not None
    assert torch.isfinite(deltas.grad).all()


def test_half_precision_ends_at_the_deltas() -> None:
    """bfloat16 has no pixels beyond 256."""
    anchors = pyramid_anchors([(1, 200)], [8], 8, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        boxes = anchors.decode(torch.zeros(200, 4, dtype=torch.bfloat16))
    assert torch.equal(boxes, anchors.boxes)


corner = st.floats(-200, 900, width=32)
side = st.floats(0, 800, width=32)


@settings(max_examples=100, deadline=None)
@given(corner, corner, side, side, st.sampled_from([2.0, 8.0]))
def test_a_box_survives_being_written_as_deltas(
    left: float, top: float, width: float, height: float, scale: float
) -> None:
    anchors = pyramid_anchors([(2, 3), (1, 2)], [8, 16], scale, CPU)
    box = torch.tensor([left, top, left + width, top + height])
    deltas = anchors.encode(box.expand(2, 8, 4))
    least = (anchors.boxes[:, 2] - anchors.boxes[:, 0] + 1) * 1000 / 16
    reachable = (least >= max(width, height) + 1)[None, :, None]
    error = (anchors.decode(deltas) - box).abs() * reachable
    assert float(error.max()) <= 2e-3


def _overlap(one: list[float], other: list[float]) -> float:
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) + 1 for i in (0, 1)]
    common = max(0.0, sides[0]) * max(0.0, sides[1])
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (one, other)]
    return common / (sum(areas) - common)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(corner, corner, side, side), min_size=2, max_size=2))
def test_overlap_counts_the_last_pixels(boxes: list[tuple[float, float, float, float]]) -> None:
    one, other = ([x, y, x + width, y + height] for x, y, width, height in boxes)
    corners = torch.tensor([one, other], dtype=torch.float64)
    found = float(pixel_overlap(corners[0], corners[1]))
    assert found == pytest.approx(_overlap(one, other), abs=1e-9)


def test_a_pixel_overlaps_with_itself() -> None:
    """What clipping leaves of a box outside the image: without area, but no less a box."""
    pixel = torch.tensor([5.0, 7.0, 5.0, 7.0])
    assert float(pixel_overlap(pixel, pixel)) == 1
    assert float(pixel_overlap(pixel, pixel + 1)) == 0
