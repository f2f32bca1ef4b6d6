"""Rows that were put aside: nobody reads them, and the others are all there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from system.data.shards.loading import broken_images, read_images, read_texts, training_batches
from system.data.shards.manifest import SplitHandle
from system.errors import DataError
from tests.data.coco_files import prepare_coco, write_coco
from tests.data.spoilt_shard import spoil_images


@pytest.fixture
def handles(tmp_path: Path) -> dict[str, SplitHandle]:
    """Two tasks of 21 rows each in two shards of row groups of 4."""
    source = write_coco(tmp_path / "raw", {"train": 21}, size=(12, 10))
    manifest = prepare_coco(source, str(tmp_path / "shards"), row_group_rows=4, shard_rows=16)
    return {entry.name: entry.handle("train") for entry in manifest.tasks}


def pixels(image: Image.Image, _: np.random.Generator | None) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()


def image_ids(handle: SplitHandle) -> list[int]:
    return [row.image_id for row in read_images(handle, range(handle.rows))]


def test_the_other_rows_are_read_whole(handles: dict[str, SplitHandle]) -> None:
    """A whole row group may be gone, and the first and last row."""
    handle = handles["food"]
    aside = frozenset({0, 4, 5, 6, 7, 17, 20})
    less = replace(handle, without=aside)
    kept = [row for row in range(handle.rows) if row not in aside]
    assert less.rows == len(kept) == 14
    every, texts = image_ids(handle), read_texts(handle)
    assert image_ids(less) == [every[row] for row in kept]
    assert read_texts(less) == [texts[row] for row in kept]
    assert [row.stored for row in read_images(less, range(less.rows))] == kept


def test_training_never_meets_them(handles: dict[str, SplitHandle]) -> None:
    handle = handles["food"]
    spoilt = [3, 18]
    names = spoil_images(handle, spoilt)
    settings: dict[str, Any] = {"batch_size": 4, "micro_batches": 2, "slots": (0, 1), "threads": 1}

    def read(some: SplitHandle) -> set[int]:
        batches = training_batches(some, seed=(1,), transform=pixels, shuffle_buffer=8, **settings)
        return {image for step in batches for part in step for image in part.image_ids}

    with pytest.raises(DataError, match=f"{names[0]}|{names[1]}"):
        read(handle)
    broken = broken_images(handle)
    assert list(broken) == spoilt
    assert [fault.name for fault in broken.values()] == [f"food: {name}" for name in names]
    less = replace(handle, without=frozenset(broken))
    assert len(read(less)) == 16  # 19 rows fill four batches
    assert broken_images(less) == {}


def test_joined_tasks_leave_out_what_each_of_them_does(handles: dict[str, SplitHandle]) -> None:
    """A method that trains on all tasks at once reads their rows as one split."""
    less = [
        replace(handle, without=frozenset(rows))
        for handle, rows in zip(handles.values(), ({2}, {0, 20}), strict=False)
    ]
    joined = SplitHandle.joined(less)
    assert joined.rows == 2 * 21 - 3
    assert image_ids(joined) == [image for handle in less for image in image_ids(handle)]
