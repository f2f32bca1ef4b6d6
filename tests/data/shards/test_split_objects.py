from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from system.data.shards.split_objects import (
    LeftOut,
    mask_pixels,
    read_expressions,
    read_object_masks,
    subsample,
    with_masks,
)
from tests.diff_prompt.mask_files import SIDE, compressed, prepare_shapes, shape


def test_expressions_come_with_their_own_objects_in_file_order(tmp_path: Path) -> None:
    """A sample's number is its place: latents of another sample would be taken otherwise."""
    manifest = prepare_shapes(tmp_path)
    found = list(read_expressions(manifest.task("square").handle("train")))
    assert [entry.row for entry in found] == list(range(12))
    assert {entry.text for entry in found} == {"the square"}
    assert found[0].box == (0.0, 0.0, 4 / SIDE, 4 / SIDE)
    for entry in found:
        expected = shape("square", 12 + entry.row) * 2.0 - 1.0
        np.testing.assert_array_equal(mask_pixels(entry.mask, SIDE)[0].numpy(), expected)


def test_an_expression_of_a_box_without_area_is_left_out_by_name(tmp_path: Path) -> None:
    """Published annotations have a few: none of them may end a training."""
    manifest = prepare_shapes(tmp_path, boxless=3)
    left_out = LeftOut()
    found = list(read_expressions(manifest.task("disk").handle("train"), left_out))
    assert [entry.row for entry in found] == [0, 1, 2, *range(4, 12)]
    assert left_out.count == 1
    assert "left out 1 without area: task 'disk', split 'train', 3.png: " in str(left_out)


def test_masks_are_read_as_they_were_annotated(tmp_path: Path) -> None:
    manifest = prepare_shapes(tmp_path)
    found = list(read_object_masks(manifest.task("square").handle("train")))
    assert [entry.row for entry in found] == list(range(12))
    for entry in found:
        expected = shape("square", 12 + entry.row) * 2.0 - 1.0
        np.testing.assert_array_equal(mask_pixels(entry.mask, SIDE)[0].numpy(), expected)


def test_an_empty_mask_is_left_out_by_name(tmp_path: Path) -> None:
    """A model that learns that nothing is an object would be found out much later."""
    handle = prepare_shapes(tmp_path, empty=3).task("disk").handle("train")
    left_out = LeftOut()
    assert [entry.row for entry in read_object_masks(handle, left_out)] == [0, 1, 2, *range(4, 12)]
    assert str(left_out) == (
        "left out 1 without area: task 'disk', split 'train', 3.png: instance 0"
    )
    left_out = LeftOut()
    found = with_masks(handle, read_expressions(handle), left_out)
    assert [entry.row for entry in found] == [0, 1, 2, *range(4, 12)]
    assert left_out.count == 1


def test_resizing_keeps_half_covered_pixels_out_and_thin_objects_in() -> None:
    """A thin object (a fork, a ski) would vanish at a small size and become an empty mask."""
    covered = np.zeros((40, 40), np.uint8)
    covered[:20, :24] = 1
    small = mask_pixels(compressed(covered), 4)[0] > 0
    assert small.tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    thin = np.zeros((40, 40), np.uint8)
    thin[7, 20:40] = 1
    small = mask_pixels(compressed(thin), 4)[0] > 0
    assert small.tolist() == [[False, False, True, True]] + [[False] * 4] * 3


def test_a_frame_that_is_not_square_is_squeezed() -> None:
    covered = np.zeros((10, 30), np.uint8)
    covered[:, :15] = 1
    small = mask_pixels(compressed(covered), 10)[0] > 0
    assert small[:, :5].all()
    assert not small[:, 5:].any()


def test_all_are_taken_where_there_are_no_more_than_asked_for() -> None:
    assert list(subsample(5, None)) == list(subsample(5, 5)) == [0, 1, 2, 3, 4]
    assert list(subsample(0, 3)) == []


@pytest.mark.parametrize(("count", "most"), [(10, 4), (1600, 50), (7, 6)])
def test_one_is_taken_of_each_equal_stretch(count: int, most: int) -> None:
    places = list(subsample(count, most))
    assert places == sorted(set(places))
    assert [place * most // count for place in places] == pytest.approx(range(most), abs=1)
    assert places == list(subsample(count, most))


def test_no_kind_is_left_out_whose_turn_comes_regularly() -> None:
    """Every eighth expression is about the same place of a scene: a method that learned only those,
    and was tested on only those, would look as good as one that can read."""
    kinds = Counter(place % 8 for place in subsample(1600, 200))
    assert len(kinds) == 8
    assert min(kinds.values()) > 200 / 8 / 3
