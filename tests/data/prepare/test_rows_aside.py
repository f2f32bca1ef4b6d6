"""Rows that were put aside: nobody reads them, and the others are all there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from system.data.datasets.coco import prepare_coco
from system.data.shards.loading import broken_images, read_images, read_texts, training_batches
from system.data.shards.manifest import SplitGrant
from system.errors import DataError
from tests.data.coco_files import write_coco
from tests.data.spoilt_shard import spoil_images


@pytest.fixture
def grants(tmp_path: Path) -> dict[str, SplitGrant]:
    """Two tasks of 21 rows each in two shards of row groups of 4."""
    source = write_coco(tmp_path / "raw", {"train": 21}, size=(12, 10))
    manifest = prepare_coco(source, str(tmp_path / "shards"), row_group_rows=4, shard_rows=16)
    return {entry.name: entry.grant("train") for entry in manifest.tasks}


def pixels(image: Image.Image, _: np.random.Generator | None) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()


def image_ids(grant: SplitGrant) -> list[int]:
    return [row.image_id for row in read_images(grant, range(grant.rows))]


def test_the_other_rows_are_read_whole(grants: dict[str, SplitGrant]) -> None:
    """A whole row group may be gone, and the first and last row."""
    grant = grants["food"]
    aside = frozenset({0, 4, 5, 6, 7, 17, 20})
    less = replace(grant, without=aside)
    kept = [row for row in range(grant.rows) if row not in aside]
    assert less.rows == len(kept) == 14
    every, texts = image_ids(grant), read_texts(grant)
    assert image_ids(less) == [every[row] for row in kept]
    assert read_texts(less) == [texts[row] for row in kept]
    assert [row.stored for row in read_images(less, range(less.rows))] == kept


def test_training_never_meets_them(grants: dict[str, SplitGrant]) -> None:
    grant = grants["food"]
    spoilt = [3, 18]
    names = spoil_images(grant, spoilt)
    settings: dict[str, Any] = {"batch_size": 4, "micro_batches": 2, "slots": (0, 1), "threads": 1}

    def read(some: SplitGrant) -> set[int]:
        batches = training_batches(some, seed=(1,), transform=pixels, shuffle_buffer=8, **settings)
        return {image for step in batches for part in step for image in part.image_ids}

    with pytest.raises(DataError, match=f"{names[0]}|{names[1]}"):
        read(grant)
    broken = broken_images(grant)
    assert list(broken) == spoilt
    assert [fault.name for fault in broken.values()] == [f"food: {name}" for name in names]
    less = replace(grant, without=frozenset(broken))
    assert len(read(less)) == 16  # 19 rows fill four batches
    assert broken_images(less) == {}


def test_joined_tasks_leave_out_what_each_of_them_does(grants: dict[str, SplitGrant]) -> None:
    """A method that trains on all tasks at once reads their rows as one split."""
    less = [
        replace(grant, without=frozenset(rows))
        for grant, rows in zip(grants.values(), ({2}, {0, 20}), strict=False)
    ]
    joined = SplitGrant.joined(less)
    assert joined.rows == 2 * 21 - 3
    assert image_ids(joined) == [image for grant in less for image in image_ids(grant)]
