"""A prepared split that the tests of several modules read."""

import pytest

from system.data.shards.manifest import SplitHandle
from system.data.shards.schema import ImageRecord
from tests.data.coco_files import prepare_coco, read_rows, write_coco

Prepared = tuple[SplitHandle, list[ImageRecord]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A split of 37 rows in three shards of row groups of 4, and its records as the reader gave."""
    root = tmp_path_factory.mktemp("loading")
    source = write_coco(root / "raw", {"train": 37}, size=(12, 10))
    manifest = prepare_coco(source, str(root / "shards"), row_group_rows=4, shard_rows=16)
    records = [r for r in read_rows(source, "train") if r.task == "food"]
    return manifest.task("food").handle("train"), records
