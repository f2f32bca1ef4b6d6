from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from system.data.prepare.shard_writer import write_shards
from system.data.shards.faults import Faults
from system.data.shards.manifest import Manifest
from system.data.shards.schema import Expression, ImageRecord, Instance, Mask
from system.data.shards.split_objects import (
    LeftOut,
    mask_pixels,
    read_expressions,
    read_object_masks,
    subsample,
    with_masks,
)
from tests.data.coco_files import png
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


class OneImage:
    """A split of one image with two objects, and one expression."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self.fingerprint = repr((expression.spans, expression.others))

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "a.png"

    def load(self, index: int) -> ImageRecord:
        mask = Mask(16, 20, b"0")
        boxes = ((0.0, 0.0, 10.0, 8.0), (10.0, 4.0, 10.0, 12.0))
        instances = tuple(Instance(box, "cat", "animal", mask) for box in boxes)
        image = png((20, 16), 0)
        return ImageRecord(
            "1", "a.png", image, 20, 16, ("cats",), "animal", instances, (self.expression,)
        )


def written(root: Path, expression: Expression) -> Manifest:
    split = OneImage(expression)
    return write_shards(
        {"train": split},
        str(root),
        benchmark="cats",
        tasks=["animal"],
        source={},
        faults=Faults("stop"),
        spanned=["train"] if expression.spans or expression.others else (),
    )


def test_spans_and_further_boxes_reach_the_expression(tmp_path: Path) -> None:
    """Loss and score take the words that name the object, and any of its boxes."""
    manifest = written(tmp_path, Expression(0, "the two cats", ((8, 12),), (1,)))
    (found,) = read_expressions(Manifest.load(str(tmp_path)).task("animal").handle("train"))
    assert found.spans == ((8, 12),)
    assert found.boxes == ((0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 1.0))
    assert found.area == 10 * 8
    plain = written(tmp_path / "plain", Expression(0, "the two cats"))
    (found,) = read_expressions(plain.task("animal").handle("train"))
    assert (found.spans, found.others) == ((), ())
    # An earlier promptide still reads the data that it could have written itself.
    assert (manifest.version, plain.version) == (3, 2)
