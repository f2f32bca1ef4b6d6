"""Expressions go to wrong objects if these fail."""

import json
from pathlib import Path

import pytest

from system.errors import DataError
from tests.data.refcoco_files import SPLITS, Edit, prepare, put, write_images, write_mdetr

MDETR: list[tuple[Edit, str]] = [
    (lambda _, c: c["annotations"].pop(0), r"expression 0 has 0 annotations, not one"),
    (put("annotations", 1, "image_id", value=0), r"expression 0 has 2 annotations, not one"),
    (put("annotations", 1, "bbox", value=[1, 1, 2, 2]), r"object 10000 has another image, box"),
    (put("images", 1, "width", value=41), r"image 1000 has another file name or size than in"),
    (put("images", 0, "height", value=0), r"fields 'width' and 'height' must be positive"),
    (put("annotations", 0, "category_id", value=9), r"'category_id' 9 is not in the file's cat"),
    (put("annotations", 0, "original_id", value=-1), r"field 'original_id' is -1, neither"),
    (put("images", 1, "id", value=0), r"images\[1\]: field 'id' 0 is there twice"),
    (
        put("images", 0, "dataset_name", value="refcoco+"),
        r"'dataset_name' is 'refcoco\+' but benchmark\.options\.release is 'refcoco'",
    ),
]


@pytest.mark.parametrize(("edit", "message"), MDETR)
def test_a_broken_entry_of_mdetr_is_named(tmp_path: Path, edit: Edit, message: str) -> None:
    """Else expressions would go to wrong objects."""
    instances, refs = write_images(tmp_path, SPLITS)
    path = write_mdetr(tmp_path, instances, refs, masks=False) / "finetune_refcoco_train.json"
    content = json.loads(path.read_text())
    edit([], content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path, format="mdetr")
    assert "finetune_refcoco_train.json" in str(caught.value)
