"""Unprompted features of a grounder: of unit length, row by row, computed once."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from system.data.shards.image_batches import image_batches
from system.data.shards.manifest import Manifest
from system.grounders.grounder import Grounder
from system.objectives.grounding.grounder_features import GrounderFeatures
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from tests.engine.thread_group import ALONE, on_threads

TEXTS = ["the disk", "the square", "the"]


def test_one_worker_and_two_give_the_same_rows_to_the_bit(
    grounder: Grounder, manifest: Manifest, tmp_path: Path
) -> None:
    """A row in the place of another would route an image by its neighbour's features."""
    handle = manifest.task("disk").handle("train")

    def features(folder: str) -> FeatureStore:
        return FeatureStore(Folder.of(tmp_path / folder))

    images, texts = GrounderFeatures(grounder, ALONE, 5, 1, features("alone")).of(handle, TEXTS)
    assert (len(images), len(texts)) == (12, 3)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(12))
    for both in on_threads(
        2, lambda group: GrounderFeatures(grounder, group, 5, 1, features("both")).of(handle, TEXTS)
    ):
        assert torch.equal(both[0], images)
        assert torch.equal(both[1], texts)


def test_images_are_told_apart_by_what_routes_them(
    grounder: Grounder, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With LPI's released feature in the config alone, the router would still see ours."""
    handle = manifest.task("disk").handle("train")
    monkeypatch.setattr(grounder, "routing_feature", "coarsest")
    store = FeatureStore(Folder.of(tmp_path))
    images, _ = GrounderFeatures(grounder, ALONE, 5, 1, store).of(handle, TEXTS)
    transform, multiple = grounder.image_transform(), grounder.side_multiple
    rows = [[(0, row) for row in range(handle.rows)]]
    with closing(
        image_batches([handle], rows, transform=transform, threads=1, multiple=multiple)
    ) as batches:
        level = grounder.coarsest_level(next(batches).pixels).flatten(1)
    expected = torch.nn.functional.normalize(level)
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)


def test_what_was_encoded_before_is_found_again(
    grounder: Grounder, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run of a sweep would otherwise encode the same images anew."""
    store = FeatureStore(Folder.of(tmp_path))
    handle = manifest.task("disk").handle("train")
    first = GrounderFeatures(grounder, ALONE, 5, 1, store).of(handle, TEXTS)
    monkeypatch.setattr(GrounderFeatures, "_images", lambda *_: pytest.fail("encoded again"))
    again = GrounderFeatures(grounder, ALONE, 5, 1, store).of(handle, TEXTS)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
