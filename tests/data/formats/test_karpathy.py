"""Images land in the wrong split, or a damaged download goes unnoticed, if these fail."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from system.data.formats.karpathy import KarpathyImage, read_karpathy
from system.data.shards.faults import Faults
from system.errors import DataError
from tests.data.flickr_files import karpathy_image, write_karpathy

FIELD = "benchmark.options.captions"


def test_flickr_entries_have_neither_folder_nor_coco_id(tmp_path: Path) -> None:
    path = write_karpathy(tmp_path / "d.json", [karpathy_image(7, "val", ["A dog.", "It runs."])])
    where = f"{path}: images[0]"
    assert list(read_karpathy(path, FIELD)) == [
        KarpathyImage(
            "7",
            "1007.jpg",
            "",
            "val",
            (("A dog.", f"{where}: sentences[0]"), ("It runs.", f"{where}: sentences[1]")),
            where,
        )
    ]


def test_coco_entries_are_known_by_their_coco_id_and_folder(tmp_path: Path) -> None:
    """With `imgid` instead, no image would match MSCOCO's own annotation files."""
    entry = karpathy_image(0, "restval", ["A dog."], cocoid=391895, filepath="val2014")
    (image,) = read_karpathy(write_karpathy(tmp_path / "d.json", [entry], "coco"), FIELD)
    assert (image.id, image.folder, image.split) == ("391895", "val2014", "restval")


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"split": "testA"}, r"images\[1\]: field 'split' is 'testA', not one of train, restval"),
    ({"sentences": []}, r"images\[1\]: field 'sentences' is empty"),
    ({"sentences": [{"tokens": []}]}, r"images\[1\]: sentences\[0\] has no field 'raw'"),
    ({"imgid": "1"}, r"images\[1\]: field 'imgid' is str, not int"),
    ({"imgid": -1}, r"images\[1\]: field 'imgid' -1 is negative"),
    ({"imgid": 2**63}, r"images\[1\]: field 'imgid' 9223372036854775808 is too large"),
    ({"imgid": float("nan")}, r"images\[1\]: field 'imgid' is float, not int"),
    ({"cocoid": -5}, r"images\[1\]: field 'cocoid' is -5, neither a whole number"),
    ({"filename": None}, r"images\[1\]: field 'filename' is NoneType, not str"),
]


@pytest.mark.parametrize(("changed", "message"), BROKEN)
def test_broken_entry_is_named_or_quarantined(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    images = [karpathy_image(number, "train", ["A dog."]) for number in range(3)]
    images[1].update(changed)
    path = write_karpathy(tmp_path / "d.json", images)
    with pytest.raises(DataError, match=message):
        list(read_karpathy(path, FIELD))
    faults = Faults("quarantine")
    assert [image.id for image in read_karpathy(path, FIELD, faults)] == ["0", "2"]
    assert len(faults.found) == 1


def test_file_behind_a_mark_with_odd_entries_is_read_row_by_row(tmp_path: Path) -> None:
    """One odd entry would cost the whole file."""
    images: list[Any] = [karpathy_image(number, "train", ["A dog."]) for number in range(4)]
    images[0]["cocoid"] = 2**64
    images[1]["sentids"] = [float("nan")]  # nothing reads it
    images[2] = None
    path = write_karpathy(tmp_path / "d.json", images)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    faults = Faults("quarantine")
    read = [image.id for image in read_karpathy(path, FIELD, faults)]
    assert read == ["18446744073709551616", "1", "3"]
    assert [fault.name for fault in faults.found] == ["images[2]"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"imgid": 0}, "image 0 is there twice"),
        ({"filename": "1000.jpg"}, "'1000.jpg' is there tw"),
    ],
)
def test_ambiguous_file_is_refused_even_under_quarantine(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    images = [karpathy_image(number, "train", ["A dog."]) for number in range(2)]
    images[1].update(changed)
    path = write_karpathy(tmp_path / "d.json", images)
    with pytest.raises(DataError, match=message):
        list(read_karpathy(path, FIELD, Faults("quarantine")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [{"imgid": 0', "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b'{"images": []}', "its list 'images' is empty"),
        (b'{"annotations": [{}]}', "has no field 'images'"),
        (b'{"images": [3]}', r"images\[0\] is not an object but int"),
        (b'{"images": ["\xff"]}', "cannot be read as JSON"),
    ],
)
def test_file_that_is_no_split_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_karpathy(path, FIELD))


def test_missing_file_names_the_config_field(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"benchmark\.options\.captions: the file .* does not exi"):
        list(read_karpathy(tmp_path / "d.json", FIELD))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The published file of MSCOCO has 150 MB, which as Python objects take some GB."""
    images = [
        karpathy_image(number, "train", [f"A rather long caption, {'x' * 500}"] * 5)
        for number in range(3000)
    ]
    path = write_karpathy(tmp_path / "d.json", images)
    del images
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_karpathy(path, FIELD)) == 3000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 10_000_000
    assert peak < 3_000_000
