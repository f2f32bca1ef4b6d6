"""Bad references go in unseen, or a downloaded pickle runs code, if these fail."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system.data.shards.masks import mask_area
from system.data.shards.schema import Mask
from system.errors import DataError
from tests.data.refcoco_files import SPLITS, Edit, prepare, put, rows, write_images, write_unc

BROKEN: list[tuple[Edit, str]] = [
    (put(0, "image_id", value=9), r"refs\[0\]: field 'image_id' 9 names an image that is not in"),
    (put(0, "ann_id", value=9), r"refs\[0\]: .*instances\.json has no annotation 9 of image 1000"),
    (put(0, "ann_id", value=10010), r"instances\.json has no annotation 10010 of image 1000"),
    (put(0, "category_id", value=2), r"refs\[0\]: field 'category_id' 2 is not that of .*\[0\]"),
    (put(0, "sentences", value=[]), r"refs\[0\]: field 'sentences' is empty"),
    (put(0, "sentences", 1, "sent", value=5), r"refs\[0\]: sentences\[1\]: field 'sent' is int"),
    (put(0, "sentences", 0, "sent", value="?!"), r"sentences\[0\]: the text '\?!' is empty after"),
    (put("annotations", 0, "bbox", value=[0, 0, 50, 9]), r"annotations\[0\]: field 'bbox' .* lies"),
    (put("annotations", 0, "segmentation", value=3), r"annotations\[0\]: segmentation is neither"),
    (
        put("annotations", 0, "segmentation", value={"size": [40, 32], "counts": "a"}),
        r"annotations\[0\]: segmentation\.size is \[40, 32\] but the image has height 32",
    ),
    (put("images", 0, "width", value=0), r"images\[0\]: fields 'width' and 'height' must be posi"),
    (
        put("images", 0, "file_name", value="../../etc/passwd.jpg"),
        r"images\[0\]: field 'file_name' '\.\./\.\./etc/passwd\.jpg' leaves the image folder",
    ),
]


@pytest.mark.parametrize(("edit", "message"), BROKEN)
def test_a_broken_row_stops_or_is_quarantined_by_name(
    tmp_path: Path, edit: Edit, message: str
) -> None:
    """Else bad rows go in unseen, or one bad row costs the whole preparation."""
    instances, refs = write_images(tmp_path, SPLITS)
    edit(refs, instances)
    write_unc(tmp_path, instances, refs)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path)
    manifest = prepare(tmp_path, on_error="quarantine")
    found = pq.read_table(tmp_path / "data" / "quarantine.parquet").to_pylist()
    assert {row["split"] for row in found} == {"train"}
    assert len(rows(manifest, "animal", "train")) in (2, 3)
    with pytest.raises(DataError, match=message):
        raise DataError(found[0]["reason"])


@pytest.mark.parametrize("made", [lambda number: 2**64 + number, "a{}".format, float])
def test_ids_and_files_as_tools_write_them_are_read(
    tmp_path: Path, made: Callable[[int], object]
) -> None:
    """Ids beyond 63 bits, as text or as pandas writes them, behind a byte-order mark."""
    instances, refs = write_images(tmp_path, SPLITS)
    write_unc(tmp_path, instances, refs)
    expected = prepare(tmp_path)
    other = rows(expected, "animal", "train")[0]
    for image in instances["images"]:
        image["id"] = made(image["id"])
    for annotation in instances["annotations"]:
        annotation |= {field: made(annotation[field]) for field in ("id", "image_id")}
    for ref in refs:
        ref |= {field: made(ref[field]) for field in ("ref_id", "ann_id", "image_id")}
    path = write_unc(tmp_path, instances, refs, python=3).parent / "instances.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    found = prepare(tmp_path)
    assert found.counts == expected.counts
    first = rows(found, "animal", "train")[0]
    assert first["image_id"] == str(made(int(other["image_id"]))).removesuffix(".0")


@pytest.mark.parametrize(
    ("edit", "split"),
    [
        (put(0, value=3), "unknown"),
        (put(0, "ref_id", value=None), "unknown"),
        (put(0, "split", value=None), "unknown"),
        (put(0, "ann_id", value=float("nan")), "train"),
        (put("annotations", 0, "bbox", 1, value=float("nan")), "train"),
        (put("annotations", 2, value=[]), "all"),  # that no reference needs
        (put("images", 0, "width", value=float("inf")), "train"),
    ],
)
def test_a_broken_entry_is_a_row_of_its_own(tmp_path: Path, edit: Edit, split: str) -> None:
    instances, refs = write_images(tmp_path, SPLITS)
    edit(refs, instances)
    write_unc(tmp_path, instances, refs, python=3)
    with pytest.raises(DataError):
        prepare(tmp_path)
    manifest = prepare(tmp_path, on_error="quarantine")
    found = pq.read_table(tmp_path / "data" / "quarantine.parquet").to_pylist()
    assert {row["split"] for row in found} == {split}
    assert len(rows(manifest, "animal", "train")) in (2, 3)


def test_the_box_is_the_outline_where_there_is_none(tmp_path: Path) -> None:
    instances, refs = write_images(tmp_path, SPLITS)
    for annotation in instances["annotations"]:
        annotation["segmentation"] = []
    write_unc(tmp_path, instances, refs)
    row = rows(prepare(tmp_path), "animal", "train")[0]
    assert mask_area(Mask(**row["masks"][0])) == row["boxes"][0][2] * row["boxes"][0][3]


AMBIGUOUS: list[tuple[Edit, str]] = [
    (put(1, "ref_id", value=0), r"refs\[1\]: field 'ref_id' 0 is there twice"),
    (put("annotations", 1, "id", value=10000), r"annotations\[1\]: field 'id' 10000 is there twi"),
    (put("images", 1, "id", value=1000), r"images\[1\]: field 'id' 1000 is there twice"),
    (put("categories", 1, "id", value=1), r"categories\[1\]: field 'id' 1 is there twice"),
]


@pytest.mark.parametrize(("edit", "message"), AMBIGUOUS)
def test_a_duplicated_id_always_stops(tmp_path: Path, edit: Edit, message: str) -> None:
    """It makes the whole file ambiguous, so it is no row's fault."""
    instances, refs = write_images(tmp_path, SPLITS)
    edit(refs, instances)
    write_unc(tmp_path, instances, refs)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, on_error="quarantine")


def test_a_malicious_release_is_refused(tmp_path: Path) -> None:
    """The refs are a pickle from the internet; see test_plain_pickle for all its ways."""
    instances, refs = write_images(tmp_path, SPLITS)
    path = write_unc(tmp_path, instances, refs)
    harm = tmp_path / "harm"
    path.write_bytes(f"cos\nsystem\n(S'touch {harm}'\ntR.".encode())
    for changes in ({}, {"on_error": "quarantine"}):
        with pytest.raises(DataError, match=r"refs\(unc\)\.p: asks for 'os\.system'.*nothing of"):
            prepare(tmp_path, **changes)
    assert not harm.exists()
