"""One broken image in 100,000 costs the user all of them, or goes unseen, if these fail."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.data.datasets.coco import CocoSource
from system.data.shards.faults import QUARANTINE_NAME, Faults
from system.data.shards.manifest import Manifest
from system.errors import ConfigError, DataError
from tests.data.coco_files import edit_json, png, prepare_coco, write_coco
from tests.data.shards.test_images import bomb

SECRET = "secret.png"


def edit(kind: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "annotations" / f"{kind}_train.json", change)


def rename(root: Path) -> None:
    """Let image 1 be a file outside of the image folder."""
    (root / SECRET).write_bytes(png((20, 16)))
    for kind in ("captions", "instances"):
        edit(kind, lambda content: content["images"][0].update(file_name=f"../{SECRET}"))(root)


def write_image(data: bytes) -> Callable[[Path], None]:
    return lambda root: replace_image(root, data)


def replace_image(root: Path, data: bytes) -> None:
    (root / "train/train_000001.png").write_bytes(data)


def update(index: int, **fields: Any) -> Callable[[Any], None]:
    return lambda content: content["annotations"][index].update(fields)


# How image 1 is broken: the name of the kind, what the message says of place and fault.
BROKEN = [
    (write_image(b"GIF89a"), "undecodable image", r"'train_000001\.png' of split 'train'"),
    (write_image(bomb(100_000, 100_000)), "too large image", r"'train_000001\.png'.*10000000000"),
    (write_image(bomb(9_000, 9_000)), "too large image", r"claims 9000 x 9000 pixels"),
    (write_image(png((16, 20))), "image of another size", r"16 x 20 pixels.*says 20 x 16"),
    (lambda root: (root / "train/train_000001.png").unlink(), "missing image", r"images\[0\]"),
    (rename, "path", r"images\[0\]: field 'file_name' '\.\./secret\.png' leaves"),
    (edit("instances", update(0, bbox=[15, 0, 9, 9])), "box", r"annotations\[0\]: field 'bbox'"),
    (
        edit("instances", update(0, segmentation={"size": [20, 16], "counts": [320]})),
        "segmentation",
        r"instances_train\.json: annotations\[0\]: segmentation\.size is \[20, 16\] but",
    ),
    (
        edit("instances", update(0, segmentation={"size": [16, 20], "counts": [300]})),
        "segmentation",
        r"annotations\[0\]: segmentation\.counts covers 300 pixels",
    ),
    (edit("captions", update(1, caption=" .")), "empty text", r"annotations\[1\]: the text ' \.'"),
    (edit("captions", update(1, caption=None)), "annotation", r"\[1\]: field 'caption' is NoneTy"),
    (
        edit("captions", lambda content: content["annotations"].__delitem__(slice(0, 2))),
        "no caption",
        r"images\[0\]: image 'train_000001\.png' has no caption",
    ),
    (
        edit("instances", lambda content: content["images"][0].update(width=0)),
        "size",
        r"instances_train\.json: images\[0\]: fields 'width' and 'height'",
    ),
]


@pytest.fixture
def source(tmp_path: Path) -> CocoSource:
    written = write_coco(tmp_path / "raw", {"train": 3, "test": 2})
    return replace(written, caption_rule="lpi")


@pytest.mark.parametrize(("destroy", "kind", "message"), BROKEN)
def test_broken_row_stops_or_is_quarantined_by_name(
    source: CocoSource, tmp_path: Path, destroy: Callable[[Path], None], kind: str, message: str
) -> None:
    destroy(Path(source.root))
    out = tmp_path / "out"
    with pytest.raises(DataError, match=message):
        prepare_coco(source, str(out))
    assert not (out / "manifest.json").exists()
    manifest = prepare_coco(replace(source, on_error="quarantine"), str(out))
    assert manifest.counts == {"animal": {"train": 2, "test": 2}, "food": {"train": 3, "test": 2}}
    manifest.verify(deep=True)
    (row,) = pq.read_table(out / QUARANTINE_NAME).to_pylist()
    assert row["split"] == "train"
    assert row["name"] in {
        "train_000001.png",
        f"../{SECRET}",
        "instances_train.json: images[0]",
    }
    assert row["kind"] == kind
    with pytest.raises(DataError, match=message):
        raise DataError(row["reason"])
    assert manifest.quarantined == {kind: {"rows": 1, "first": [row["name"]]}}


def test_entry_of_no_image_is_quarantined(source: CocoSource, tmp_path: Path) -> None:
    edit("captions", update(2, image_id=99))(Path(source.root))
    edit("instances", lambda content: content["annotations"].__setitem__(3, 5))(Path(source.root))
    splits = {split: replace(files, refs=None) for split, files in source.splits.items()}
    lenient = replace(source, splits=splits, on_error="quarantine")
    manifest = prepare_coco(lenient, str(tmp_path / "out"))
    assert manifest.quarantined == {
        "annotation": {"rows": 1, "first": ["instances_train.json: annotations[3]"]},
        "unknown image": {"rows": 1, "first": ["captions_train.json: annotations[2]"]},
    }
    assert sum(counts["train"] for counts in manifest.counts.values()) == 6


@pytest.mark.parametrize(
    ("kind", "path"),
    [("captions", "images"), ("instances", "images"), ("instances", "annotations")],
)
def test_duplicated_id_ends_the_preparation_even_so(
    source: CocoSource, tmp_path: Path, kind: str, path: str
) -> None:
    """Which of the two is meant nobody knows, so rows would be wrong and look right."""

    def again(content: Any) -> None:
        content[path][1]["id"] = content[path][0]["id"]

    edit(kind, again)(Path(source.root))
    message = rf"{kind}_train\.json: {path}\[1\]: field 'id' \d+ is there twice"
    with pytest.raises(DataError, match=message):
        prepare_coco(replace(source, on_error="quarantine"), str(tmp_path / "out"))


def test_quarantine_is_told_again_by_a_call_that_finds_all_shards(
    source: CocoSource, tmp_path: Path
) -> None:
    """The second `promptide prepare` must not look as if nothing had been quarantined."""
    replace_image(Path(source.root), b"")
    lenient, out = replace(source, on_error="quarantine"), tmp_path / "out"
    first = prepare_coco(lenient, str(out))
    listed = pq.read_table(out / QUARANTINE_NAME)
    (out / QUARANTINE_NAME).unlink()
    assert prepare_coco(lenient, str(out)) == first == Manifest.load(str(out))
    assert pq.read_table(out / QUARANTINE_NAME).equals(listed)
    with pytest.raises(DataError, match="the file is empty"):
        prepare_coco(source, str(out))
    replace_image(Path(source.root), png((20, 16)))
    assert prepare_coco(lenient, str(out)).quarantined == {}
    assert not (out / QUARANTINE_NAME).exists()


def test_task_that_loses_all_its_rows_is_an_error(source: CocoSource, tmp_path: Path) -> None:
    for image in (Path(source.root) / "test").iterdir():
        image.write_bytes(b"")
    with pytest.raises(DataError, match=r"split 'test' has no image of any task.*4 empty file"):
        prepare_coco(replace(source, on_error="quarantine"), str(tmp_path / "out"))


def test_text_that_no_file_can_hold_is_quarantined() -> None:
    """Half a surrogate pair in an annotation must not break the list of broken rows itself."""
    faults = Faults("quarantine")
    with faults.row("train", "\ud800.jpg"):
        raise DataError("the name \ud800.jpg")
    json.dumps([faults.found[0].name, faults.found[0].reason], ensure_ascii=False).encode()


def test_other_errors_are_not_swallowed() -> None:
    """A full disk or Ctrl-C is nobody's broken row."""
    for error in (ConfigError("x"), OSError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), Faults("quarantine").row("train", "a.jpg"):
            raise error
