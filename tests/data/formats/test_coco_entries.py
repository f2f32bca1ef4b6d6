"""Broken annotations become rows, or good ones are refused, if these fail."""

from collections.abc import Callable
from typing import Any

import pytest

from system.data.formats.coco_entries import (
    ImageEntry,
    find_category,
    read_box,
    read_categories,
    read_image,
    read_mask,
    unique_id,
)
from system.data.prepare.annotations import Entry
from system.data.shards.masks import mask_area
from system.errors import DataError

IMAGE = ImageEntry(1, "a.png", 20, 16, "file: images[0]")
NAMES = {7: ("cat", "animal")}


def entry(**content: Any) -> Entry:
    return Entry(content, "file: annotations[3]")


def test_image_and_box_are_read_as_published() -> None:
    read = read_image(Entry({"n": 1, "file_name": "a.png", "width": 20, "height": 16}, "x"), "n")
    assert read == ImageEntry(1, "a.png", 20, 16, "x")
    # a published box is rounded, so it may reach one pixel beyond the image
    assert read_box(entry(bbox=[-0.6, 0, 21, 16.9]), IMAGE) == (-0.6, 0.0, 21.0, 16.9)


def test_categories_need_no_super_category() -> None:
    """MDETR's files have generic categories."""
    entries = [entry(id=7, name="cat", supercategory="animal"), entry(id=8, name="object")]
    assert read_categories(entries) == {**NAMES, 8: ("object", "")}


def test_mask_is_that_of_the_outline() -> None:
    mask = read_mask(entry(segmentation=[[0, 0, 10, 0, 10, 16, 0, 16]]), IMAGE)
    assert (mask.height, mask.width, mask_area(mask)) == (16, 20, 160)


@pytest.mark.parametrize(
    ("read", "message", "kind"),
    [
        (lambda: read_box(entry(bbox=[0, 0, 22, 5]), IMAGE), "outside the image 'a.png'", "box"),
        (lambda: read_box(entry(bbox=[0, 0, -1, 5]), IMAGE), "outside the image", "box"),
        (lambda: read_box(entry(bbox=[0, 0, 1]), IMAGE), "'bbox' is not four numbers", "box"),
        (lambda: read_box(entry(bbox=[0, 0, 1, float("nan")]), IMAGE), "not four num", "box"),
        (
            lambda: read_image(entry(id=1, file_name="a", width=0, height=1), "id"),
            "fields 'width' and 'height' must be positive",
            "size",
        ),
        (lambda: read_mask(entry(segmentation=3), IMAGE), "is neither a list", "segmentation"),
        (lambda: find_category(entry(category_id=9), NAMES), "9 is not in", "unknown category"),
        (lambda: unique_id(entry(id=7), "id", NAMES), "'id' 7 is there twice", "annotation"),
    ],
)
def test_a_broken_entry_is_named_by_place_and_kind(
    read: Callable[[], object], message: str, kind: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read()
    assert str(caught.value).startswith("file: annotations[3]")
    assert caught.value.kind == kind
