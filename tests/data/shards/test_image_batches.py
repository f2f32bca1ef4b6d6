"""Images by place: the right ones in any order, and an order that keeps few groups open."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from system.data.shards.image_batches import HELD_GROUPS, image_batches, shuffled_by_group
from system.data.shards.images import decode_image
from system.data.shards.loading import read_images
from tests.diff_prompt.mask_files import prepare_shapes


def pixels(image: Image.Image, rng: np.random.Generator | None) -> Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).movedim(-1, 0)


def test_each_place_gets_its_own_image(tmp_path: Path) -> None:
    """An expression that comes with another image teaches nonsense, and nothing fails."""
    manifest = prepare_shapes(tmp_path)
    handles = [manifest.task(task).handle("train") for task in ("disk", "square")]
    batches = [[(1, 3), (0, 7), (1, 3)], [(0, 0)], [(1, 11), (0, 11)]]
    found = list(image_batches(handles, batches, transform=pixels, threads=2))
    assert [len(images) for images in found] == [3, 1, 2]
    for (split, row), image in zip(chain(*batches), chain(*found), strict=True):
        (stored,) = read_images(handles[split], [row])
        assert torch.equal(image, pixels(decode_image(stored.image, "x"), None))


def test_an_epochs_order_has_each_sample_once_and_reads_group_by_group() -> None:
    """Samples from all groups would have each image's group read anew."""
    groups = [list(range(10 * g, 10 * g + 10)) for g in range(2 * HELD_GROUPS)]
    order = shuffled_by_group(groups, [5, 1, 0])
    assert sorted(order) == sorted(chain(*groups))
    assert order == shuffled_by_group(groups, [5, 1, 0])
    assert order != shuffled_by_group(groups, [5, 1, 1])
    half = len(order) // 2
    assert len({sample // 10 for sample in order[:half]}) == HELD_GROUPS
    assert len({sample // 10 for sample in order[:20]}) > 5
