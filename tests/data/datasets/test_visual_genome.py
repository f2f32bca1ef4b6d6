"""Phrases get other regions' boxes, or one odd region costs 5 million, if these fail."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.config.compose import compose
from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.errors import DataError
from tests.data.coco_files import png
from tests.data.flickr_files import stored_rows

URL = "https://cs.stanford.edu/people/rak248"


def write_genome(root: Path, count: int = 6) -> None:
    """Write images in both folders, each with three regions, two of one box."""
    data, regions = [], []
    for number in range(1, count + 1):
        folder = ("VG_100K", "VG_100K_2")[number % 2]
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"{number}.jpg").write_bytes(png((20, 16), number))
        url = f"{URL}/{folder}/{number}.jpg"
        data.append({"image_id": number, "url": url, "width": 20, "height": 16, "coco_id": None})
        boxes = [(1, 2, 3, 4), (1, 2, 3, 4), (-2, 10, 10, 9)]
        own = [
            {"region_id": 10 * number + k, "image_id": number, "phrase": f"a Thing {k}"}
            | dict(zip(("x", "y", "width", "height"), box, strict=True))
            for k, box in enumerate(boxes)
        ]
        regions.append({"id": number, "regions": own})
    (root / "image_data.json").write_text(json.dumps(data), encoding="utf-8-sig")
    (root / "region_descriptions.json").write_text(json.dumps(regions))


def prepare(root: Path, **changes: Any) -> Manifest:
    options = compose(["benchmark=visual_genome"]).benchmark.options
    changed = {**options, "root": str(root), **changes}
    return DATASETS.get("visual_genome")("small", str(root / "data"), changed, None)


def rows(manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {
        row["image_id"]: row
        for split in ("train", "val", "test")
        for row in stored_rows(manifest, "visual_genome", split)
    }


def test_regions_are_expressions_and_are_cut_off_at_the_edges(tmp_path: Path) -> None:
    write_genome(tmp_path)
    manifest = prepare(tmp_path)
    counts = manifest.counts["visual_genome"]
    assert sum(counts.values()) == 6
    assert min(counts.values()) >= 1  # a draw of so few images is mended
    assert manifest.source["cut_off_regions"] == 6
    row = rows(manifest)["3"]
    assert row["file_name"] == "VG_100K_2/3.jpg"
    assert row["image"] == (tmp_path / "VG_100K_2/3.jpg").read_bytes()
    assert row["boxes"] == [[1, 2, 3, 4], [0, 10, 8, 6]]
    assert row["expressions"] == [
        {"instance": 0, "text": "a Thing 0"},
        {"instance": 0, "text": "a Thing 1"},
        {"instance": 1, "text": "a Thing 2"},
    ]
    assert row["captions"] == ["a Thing 0", "a Thing 1", "a Thing 2"]


def edit(root: Path, name: str, change: Callable[[Any], object]) -> None:
    path = root / name
    content = json.loads(path.read_text("utf-8-sig"))
    change(content)
    path.write_text(json.dumps(content))


REGIONS, DATA = "region_descriptions.json", "image_data.json"


@pytest.mark.parametrize(
    ("file", "change", "message", "images", "regions"),
    [
        (REGIONS, lambda c: c[0]["regions"][0].update(x=30), "has no pixel in the image", 6, 17),
        (REGIONS, lambda c: c[0]["regions"][0].update(x=None), "is not four numbers", 6, 17),
        (REGIONS, lambda c: c[0]["regions"][0].update(y=float("nan")), "not four numbers", 6, 17),
        (REGIONS, lambda c: c[0]["regions"][0].update(phrase=" "), "is empty after", 6, 17),
        (REGIONS, lambda c: c[0]["regions"].insert(0, 3), r"regions\[0\] is not an object", 5, 15),
        (REGIONS, lambda c: c[0].pop("regions"), r"\[0\] has no field 'regions'", 5, 15),
        (REGIONS, lambda c: c[0].update(id=99), r"\[0\]: image 99 is not in image_data", 5, 15),
        (DATA, lambda c: c[0].update(width=None), r"\[0\]: field 'width' is NoneType", 5, 15),
        (DATA, lambda c: c[0].update(url="x.jpg"), r"\[0\]: field 'url' does not end", 5, 15),
        (DATA, lambda c: c[0].update(url=f"{URL}/VG_9/../1.jpg"), "does not end|leaves", 5, 15),
    ],
)
def test_a_broken_entry_costs_only_what_is_in_it(
    tmp_path: Path,
    file: str,
    change: Callable[[Any], object],
    message: str,
    images: int,
    regions: int,
) -> None:
    write_genome(tmp_path)
    edit(tmp_path, file, change)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path)
    found = rows(prepare(tmp_path, on_error="quarantine"))
    assert len(found) == images
    assert sum(len(row["expressions"]) for row in found.values()) == regions
    assert pq.read_table(tmp_path / "data" / "quarantine.parquet").num_rows in (1, 2)


def test_an_image_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_genome(tmp_path)
    edit(tmp_path, REGIONS, lambda content: content.append(content[0]))
    with pytest.raises(DataError, match=r"\[6\]: image 1 is there twice"):
        prepare(tmp_path, on_error="quarantine")


def test_an_image_without_regions_is_left_out_and_counted(tmp_path: Path) -> None:
    write_genome(tmp_path)
    edit(tmp_path, REGIONS, lambda content: content[0].update(regions=[]))
    manifest = prepare(tmp_path)
    assert sum(manifest.counts["visual_genome"].values()) == 5
    assert "without_regions" in str(manifest.source["skipped"])
