"""MSCOCO's folders do not fit, or validation images are drawn wrongly, if these fail."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from system.config.compose import compose
from system.data.datasets.coco import index_coco
from system.data.embedded.pictograms import SUPER_CATEGORIES
from system.data.prepare.dataset import DATASETS
from system.data.shards.faults import Faults
from system.errors import ConfigError
from tests.data.coco_files import coco_source, write_coco, write_published_coco


def test_validation_images_are_drawn_one_by_one(tmp_path: Path) -> None:
    """Figures of two machines differ, or validation images are trained on, if this fails."""
    source = write_coco(tmp_path, {"train": 40, "test": 1})
    held_out = replace(source, val_share=0.2, val_seed=7)
    found = index_coco(held_out, Faults("stop"))
    assert list(found) == ["train", "val", "test"]
    ids = {split: {image for image, _, _ in index.images} for split, index in found.items()}
    assert ids["train"] | ids["val"] == set(range(1, 81))
    lots = {image: hashlib.sha256(f"7:{image}".encode()).hexdigest()[:16] for image in range(1, 81)}
    assert ids["val"] == {image for image, lot in lots.items() if int(lot, 16) / 2**64 < 0.2}
    assert 8 <= len(ids["val"]) <= 24
    other = index_coco(replace(held_out, val_seed=8), Faults("stop"))["val"]
    assert {image for image, _, _ in other.images} != ids["val"]


@pytest.mark.parametrize(
    ("settings", "splits"),
    [({"val_share": 1.0}, ["train"]), ({"val_share": 0.1}, ["test"]), ({"val_share": 0.1}, [])],
)
def test_share_that_cannot_be_held_out_is_refused(
    tmp_path: Path, settings: dict[str, Any], splits: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.options\.(val_share|splits)"):
        coco_source(tmp_path, splits, **settings)
    with pytest.raises(ConfigError, match="take val out of benchmark"):
        coco_source(tmp_path, ["train", "val"], val_share=0.1)


@pytest.mark.parametrize("name", ["coco", "lpi_coco"])
def test_published_layout_is_what_the_config_says(tmp_path: Path, name: str) -> None:
    """Users would have to rename half a million files."""
    year = {"coco": 2017, "lpi_coco": 2014}[name]
    overrides = [f"benchmark={name}", f"benchmark.options.root={tmp_path}"]
    if name == "lpi_coco":  # a twentieth of so few images would be none in some tasks
        overrides.append("benchmark.options.val_share=0.4")
    config = compose(overrides).benchmark
    assert config.options["tasks"] == list(SUPER_CATEGORIES)
    write_published_coco(tmp_path, year, {"train": 20, "val": 2}, SUPER_CATEGORIES)
    manifest = DATASETS.get(config.dataset)(name, str(tmp_path / "out"), config.options, None)
    splits = ["train", "test"] if name == "coco" else ["train", "val", "test"]
    assert [list(counts) for counts in manifest.counts.values()] == [splits] * 12
    assert sum(sum(counts.values()) for counts in manifest.counts.values()) == 22 * 12
