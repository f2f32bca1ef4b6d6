"""Broken annotations become rows, or good ones are refused, if these fail."""

from collections.abc import Callable
from typing import Any

import pytest

from system.data.formats.coco_entries import (
    ImageEntry,
    find_category,
    read_box,
    read_category,
    read_image,
    read_mask,
    unique_id,
)
from system.data.prepare.annotations import Entry
from system.data.shards.masks import mask_area, mask_from_box
from system.errors import DataError

IMAGE = ImageEntry("1", "a.png", 20, 16, "file: images[0]")
CATEGORIES = {"7": Entry({"id": 7, "name": "cat", "supercategory": "animal"}, "c")}
BOX = (1.0, 2.0, 3.0, 4.0)


def entry(**content: Any) -> Entry:
    return Entry(content, "file: annotations[3]")


def test_image_and_box_are_read_as_published() -> None:
    read = read_image(Entry({"n": 1, "file_name": "a.png", "width": 20, "height": 16}, "x"), "n")
    assert read == ImageEntry("1", "a.png", 20, 16, "x")
    # a published box is rounded, so it may reach one pixel beyond the image
    assert read_box(entry(bbox=[-0.6, 0, 21, 16.9]), IMAGE) == (-0.6, 0.0, 21.0, 16.9)


def test_categories_need_no_super_category() -> None:
    """MDETR's files and detection exports have none."""
    assert find_category(entry(category_id=7.0), CATEGORIES) == ("cat", "animal")
    for none in (entry(name="object"), entry(name="object", supercategory=None)):
        assert read_category(none) == ("object", "")


def test_mask_is_that_of_the_outline() -> None:
    mask = read_mask(entry(segmentation=[[0, 0, 10, 0, 10, 16, 0, 16]]), BOX, IMAGE)
    assert (mask.height, mask.width, mask_area(mask)) == (16, 20, 160)


@pytest.mark.parametrize(
    "empty", [None, [], [[]], [[], []], "", {"size": [16, 20], "counts": []}, "not there"]
)
def test_the_box_is_the_outline_where_there_is_none(empty: object) -> None:
    """Detection exports have no outlines, and each tool writes that in its own way."""
    annotation = entry() if empty == "not there" else entry(segmentation=empty)
    assert read_mask(annotation, BOX, IMAGE) == mask_from_box(BOX, 16, 20)
    assert mask_area(read_mask(annotation, (5.0, 5.0, 0.0, 0.0), IMAGE)) == 0


def test_whole_numbers_may_be_written_with_a_fraction_of_nothing() -> None:
    read = read_image(entry(id=1.0, file_name="a", width=20.0, height=16.0), "id")
    assert (read.id, read.width, read.height) == ("1", 20, 16)


@pytest.mark.parametrize(
    ("read", "message", "kind"),
    [
        (lambda: read_box(entry(bbox=[0, 0, 22, 5]), IMAGE), "outside the image 'a.png'", "box"),
        (lambda: read_box(entry(bbox=[0, 0, -1, 5]), IMAGE), "outside the image", "box"),
        (lambda: read_box(entry(bbox=[0, 0, 1]), IMAGE), "'bbox' is not four numbers", "box"),
        (lambda: read_box(entry(bbox=[0, 0, 1, float("nan")]), IMAGE), "not four num", "box"),
        (lambda: read_box(entry(bbox=[0, 0, 1, True]), IMAGE), "not four num", "box"),
        (lambda: read_box(entry(bbox=[0, 0, 1, 10**400]), IMAGE), "not four num", "box"),
        (
            lambda: read_mask(entry(segmentation=[[0, 0, 9, 0, 9, 10**400]]), BOX, IMAGE),
            "not a list of x, y pairs",
            "segmentation",
        ),
        (
            lambda: read_image(entry(id=1, file_name="a", width=10**30, height=1), "id"),
            "more than the 64000000 that are decoded",
            "too large image",
        ),
        (
            lambda: read_image(entry(id=1, file_name="\ud800", width=1, height=1), "id"),
            "no Unicode",
            "text",
        ),
        (
            lambda: read_image(entry(id=1, file_name="a", width=0, height=1), "id"),
            "fields 'width' and 'height' must be positive",
            "size",
        ),
        (lambda: read_mask(entry(segmentation=3), BOX, IMAGE), "is neither a list", "segmentation"),
        (
            lambda: find_category(entry(category_id=9), CATEGORIES),
            "9 is not in",
            "unknown category",
        ),
        (lambda: unique_id(entry(id=7), "id", CATEGORIES), "'id' 7 is there twice", "annotation"),
    ],
)
def test_a_broken_entry_is_named_by_place_and_kind(
    read: Callable[[], object], message: str, kind: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read()
    assert str(caught.value).startswith("file: annotations[3]")
    assert caught.value.kind == kind
