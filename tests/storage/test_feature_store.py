"""A stored feature is used again only where all it depends on is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from system.storage.feature_store import FeatureStore
from system.storage.files import Folder

BASE: dict[str, Any] = {"backbone": "f", "protocol": "corrected", "shards": ["a", "b"], "block": 64}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(Folder.of(tmp_path / "features"))


def test_round_trip_to_the_bit(store: FeatureStore) -> None:
    tensors = {"vision": torch.randn(5, 3).T, "text": torch.randn(2, 3)}
    store.put("key", tensors)
    found = store.find("key")
    assert found is not None
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert store.find("other") is None


@pytest.mark.parametrize(
    "change",
    [{"backbone": "g"}, {"protocol": "published"}, {"shards": ["b", "a"]}, {"block": 32}],
)
def test_key_follows_everything_it_depends_on(change: dict[str, Any]) -> None:
    """Features of another backbone or other rows would pass for those of this one."""
    assert FeatureStore.key(**BASE) != FeatureStore.key(**(BASE | change))


def test_key_does_not_depend_on_the_order_of_names() -> None:
    assert FeatureStore.key(**BASE) == FeatureStore.key(**dict(reversed(BASE.items())))


@pytest.mark.parametrize("content", [b"", b"garbage" * 20])
def test_a_damaged_entry_is_made_anew(store: FeatureStore, content: bytes) -> None:
    store.put("key", {"a": torch.zeros(1)})
    store.folder.write("key.safetensors", content)
    assert store.find("key") is None
    store.put("key", {"a": torch.ones(1)})
    assert store.find("key") == {"a": torch.ones(1)}
