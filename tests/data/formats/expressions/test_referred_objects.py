"""Two references to one object become two objects, or contradictions pass, if these fail."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from system.data.formats.coco_entries import ImageEntry
from system.data.formats.expressions.referred_objects import (
    ObjectTable,
    Published,
    ReferredObject,
    ReferredObjects,
)
from system.data.shards.faults import Faults
from system.data.shards.schema import Instance, Mask
from system.errors import DataError

IMAGE = ImageEntry("1", "a.png", 20, 16, "refs[0]")
CAT = Instance((0.0, 0.0, 5.0, 5.0), "cat", "animal", Mask(16, 20, b"0"))
FIRST = ReferredObject("7", IMAGE, CAT, [Published("the cat", "refs[0]")])


def test_further_expressions_join_their_object() -> None:
    objects = ReferredObjects()
    objects.add(replace(FIRST, expressions=[Published("the cat", "refs[0]")]))
    objects.add(replace(FIRST, id="8"))
    objects.add(replace(FIRST, expressions=[Published("a cat", "refs[2]")]))
    assert [(found.id, [text for text, *_ in found.expressions]) for found in objects] == [
        ("7", ["the cat", "a cat"]),
        ("8", ["the cat"]),
    ]


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (replace(FIRST, image=replace(IMAGE, width=21)), "image described twice"),
        (replace(FIRST, image=replace(IMAGE, id="2")), "object described twice"),
        (replace(FIRST, instance=replace(CAT, category="dog")), "object described twice"),
    ],
)
def test_contradicting_references_are_refused(other: ReferredObject, kind: str) -> None:
    objects = ReferredObjects()
    objects.add(FIRST)
    with pytest.raises(DataError) as caught:
        objects.add(other)
    assert caught.value.kind == kind


def test_instances_are_looked_up_by_number(tmp_path: Path) -> None:
    annotation = {"id": 5, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]}
    outline: dict[str, Any] = {"segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 16}],
        "categories": [{"id": 7, "name": "cat", "supercategory": "animal"}],
        "annotations": [{**annotation, **outline}, {**annotation, "id": 6}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    table = ObjectTable(path, "benchmark.options.instances", {"5"}, Faults("stop"))
    image = table.image("1", "refs[0]")
    found = table.instance(table.find("5", "1", "refs[0]"), image)
    assert (image.file_name, found.category, found.box) == ("a.png", "cat", (0.0, 0.0, 5.0, 5.0))
    for identifier, image_id in (("6", "1"), ("5", "2")):  # not wanted; of another image
        with pytest.raises(DataError, match=r"^refs\[0\]: .* do the two files belong together\?"):
            table.find(identifier, image_id, "refs[0]")
    with pytest.raises(DataError, match="'image_id' 9 names an image that is not in"):
        table.image("9", "refs[0]")
