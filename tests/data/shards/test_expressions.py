from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from system.data.shards.expressions import read_expressions
from system.data.shards.object_masks import mask_pixels
from system.errors import DataError
from tests.diff_prompt.mask_files import SIDE, prepare_shapes, shape


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


def test_an_expression_without_a_box_is_named(tmp_path: Path) -> None:
    manifest = prepare_shapes(tmp_path, boxless=3)
    with pytest.raises(DataError, match=r"'disk'.*3\.png.*'the disk'.*without area"):
        list(read_expressions(manifest.task("disk").handle("train")))
