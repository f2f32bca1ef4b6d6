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
    assert [len(images.pixels) for images in found] == [3, 1, 2]
    assert all(images.sizes is None for images in found)
    every = chain.from_iterable(images.pixels for images in found)
    for (split, row), image in zip(chain(*batches), every, strict=True):
        (stored,) = read_images(handles[split], [row])
        assert torch.equal(image, pixels(decode_image(stored.image, "x"), None))


def test_a_batch_is_padded_to_its_own_largest_image(tmp_path: Path) -> None:
    """A batch's size must not depend on those beside it: workers read them in another order."""
    handle = prepare_shapes(tmp_path).task("disk").handle("train")

    def cut(image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Of a height that the image's own brightness decides, so that they differ."""
        every = pixels(image, rng)
        return every[:, : 1 + int(every.sum()) % 40, :13]

    places = [(0, row) for row in range(12)]
    alone = [
        b.pixels[0]
        for b in image_batches([handle], [[p] for p in places], transform=cut, threads=1)
    ]
    batches = image_batches(
        [handle], [places[:5], places[5:]], transform=cut, threads=2, multiple=8
    )
    for images, of_batch in zip(batches, (alone[:5], alone[5:]), strict=True):
        assert images.sizes is not None
        assert images.sizes.tolist() == [list(image.shape[1:]) for image in of_batch]
        assert images.pixels.shape[2:] == (-(-max(len(i[0]) for i in of_batch) // 8) * 8, 16)


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
