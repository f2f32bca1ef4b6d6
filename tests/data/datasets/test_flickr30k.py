"""Published retrieval results on Flickr30k cannot be reproduced if these fail."""

import json
from pathlib import Path
from typing import Any

import pytest

from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.errors import ConfigError, DataError
from tests.data.flickr_files import stored_rows, write_flickr30k, write_karpathy

SPLITS = {"train": 4, "val": 2, "test": 2}


def prepare(root: Path, /, **options: Any) -> Manifest:
    return DATASETS.get("flickr30k")(
        "flickr30k", str(root / "out"), {"root": str(root), **options}, None
    )


def test_rows_are_karpathys_images_with_five_cleaned_captions(tmp_path: Path) -> None:
    images = write_flickr30k(tmp_path, SPLITS)
    manifest = prepare(tmp_path)
    assert manifest.counts == {"flickr30k": SPLITS}
    rows = stored_rows(manifest, "flickr30k", "train")
    assert [row["file_name"] for row in rows] == [image["filename"] for image in images[:4]]
    assert rows[1]["captions"] == [f"a dog no 1 runs {k}" for k in range(5)]
    assert (rows[1]["image_id"], rows[1]["width"], rows[1]["height"]) == ("1", 20, 16)
    assert rows[1]["boxes"] == rows[1]["expressions"] == []
    assert rows[1]["image"] == (tmp_path / "flickr30k-images" / "1001.jpg").read_bytes()


def test_a_file_says_each_images_task(tmp_path: Path) -> None:
    """Images that it does not name are counted, so that nothing vanishes silently."""
    images = write_flickr30k(tmp_path, SPLITS)
    tasks = {image["filename"]: ("dogs", "cats")[index % 2] for index, image in enumerate(images)}
    del tasks[images[0]["filename"]]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    manifest = prepare(tmp_path, task_overrides="tasks.json")
    assert list(manifest.counts) == ["cats", "dogs"]
    assert manifest.counts["dogs"] == {"train": 1, "val": 1, "test": 1}
    assert manifest.source["skipped"] == {"train": {"without_task": 1}, "val": {}, "test": {}}
    only = prepare(tmp_path, task_overrides="tasks.json", tasks=["dogs"])
    assert list(only.counts) == ["dogs"]
    assert only.source["skipped"] == {
        "train": {"without_task": 1, "other_task": 2},
        "val": {"other_task": 1},
        "test": {"other_task": 1},
    }


def test_broken_rows_end_it_or_are_quarantined(tmp_path: Path) -> None:
    images = write_flickr30k(tmp_path, SPLITS)
    (tmp_path / "flickr30k-images" / images[0]["filename"]).unlink()
    images[1]["sentences"][2]["raw"] = " ... "
    images[2]["filename"] = "../secret.jpg"
    write_karpathy(tmp_path / "dataset_flickr30k.json", images)
    with pytest.raises(DataError, match=r"images\[0\]: the image .*1000\.jpg does not exist"):
        prepare(tmp_path)
    manifest = prepare(tmp_path, on_error="quarantine")
    assert manifest.counts == {"flickr30k": {"train": 1, "val": 2, "test": 2}}


def test_wrong_options_name_their_field(tmp_path: Path) -> None:
    write_flickr30k(tmp_path, SPLITS)
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "number.json").write_text('{"1000.jpg": 1}')
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"image": "x"}, ConfigError, r"benchmark\.options\.image; did you mean"),
        ({"tasks": ["a"]}, ConfigError, "tasks needs task_overrides"),
        ({"caption_rule": "lip"}, ConfigError, r"options\.caption_rule: 'lip' is unknown"),
        ({"on_error": "skip"}, ConfigError, r"options\.on_error='skip' is not one of"),
        ({"root": "/no/such"}, DataError, r"options\.root: the folder /no/such does not exist"),
        ({"images": "no"}, DataError, r"options\.images: the folder .* does not exist"),
        ({"captions": "no.json"}, DataError, r"options\.captions: the file .* does not exist"),
        ({"task_overrides": "no.json"}, DataError, r"options\.task_overrides: the file .* does"),
        ({"task_overrides": "list.json"}, DataError, r"list\.json: is not an object"),
        ({"task_overrides": "number.json"}, DataError, r"field '1000\.jpg' is 1, not the name"),
    ]
    for changed, kind, message in wrong:
        with pytest.raises(kind, match=message):
            prepare(tmp_path, **changed)
