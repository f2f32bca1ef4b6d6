"""Stored features are used only where all they depend on is the same; parts outlive a crash."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from system.engine.worker_group import WorkerGroup, make_parts
from system.errors import BrokenStorageError, StorageError
from system.storage import feature_store
from system.storage.feature_store import FeatureStore, TensorParts
from system.storage.files import Folder

BASE: dict[str, Any] = {"backbone": "f", "protocol": "corrected", "shards": ["a", "b"], "block": 64}
ALL = torch.randn(10, 2, 3, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize("content", [b"", b"garbage" * 20, None])
def test_a_damaged_entry_is_made_anew(
    store: FeatureStore, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("key", {"a": torch.zeros(1)})
    content = flipped(store.folder.read("key.safetensors")) if content is None else content
    store.folder.write("key.safetensors", content)
    assert store.find("key") is None
    (line,) = caplog.messages
    assert "key.safetensors is damaged" in line
    store.put("key", {"a": torch.ones(1)})
    assert store.find("key") == {"a": torch.ones(1)}


def parts(root: Path) -> TensorParts:
    return TensorParts(Folder.of(root), rows=10, part_rows=4)


def rank(index: int, size: int) -> WorkerGroup:
    """One whose ranks do not wait for each other."""
    group = WorkerGroup(rank=index, size=size, device=torch.device("cpu"))
    object.__setattr__(group, "gather_rows", lambda rows: rows)
    return group


def fill(root: Path, group: WorkerGroup) -> list[range]:
    """Make what is missing; which rows were asked for."""
    asked = []

    def make(rows: range) -> dict[str, torch.Tensor]:
        asked.append(rows)
        return {
            "x": ALL[rows.start : rows.stop],
            "sum": ALL[rows.start : rows.stop].sum(dim=(1, 2)),
        }

    make_parts(parts(root), group, make, lambda done, total: None)
    return asked


def test_rows_come_back_to_the_bit_in_any_order(tmp_path: Path) -> None:
    fill(tmp_path, rank(0, 1))
    assert torch.equal(parts(tmp_path).read_all()["x"], ALL)
    taken = parts(tmp_path).take([9, 0, 5, 0])
    assert torch.equal(taken["x"], ALL[[9, 0, 5, 0]])
    assert torch.equal(taken["sum"], ALL.sum(dim=(1, 2))[[9, 0, 5, 0]])


def test_ranks_share_the_parts_and_a_crash_costs_only_what_was_not_written(tmp_path: Path) -> None:
    assert fill(tmp_path, rank(0, 2)) == [range(0, 4), range(8, 10)]
    assert fill(tmp_path, rank(1, 2)) == [range(4, 8)]
    Folder.of(tmp_path).delete("part-000002.parquet")
    assert fill(tmp_path, rank(0, 1)) == [range(8, 10)]
    assert torch.equal(parts(tmp_path).read_all()["x"], ALL)


def test_no_more_than_the_limit_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set's latents may be larger than memory."""
    fill(tmp_path, rank(0, 1))
    monkeypatch.setattr(feature_store, "HELD_BYTES", 150)  # a part has 112
    opened = parts(tmp_path)
    for row in (0, 9, 0):
        assert torch.equal(opened.take([row])["x"][0], ALL[row])
        assert len(opened._held) == 1


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = [flipped, lambda data: data[:-1], lambda data: b"", lambda data: b"PAR1"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_dropped_with_a_line_and_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Or one bit would change what is learned from all of them, and nobody would know."""
    fill(tmp_path, rank(0, 1))
    folder = Folder.of(tmp_path)
    folder.write("part-000001.parquet", damage(folder.read("part-000001.parquet")))
    assert fill(tmp_path, rank(0, 1)) == [range(4, 8)]
    assert torch.equal(parts(tmp_path).read_all()["x"], ALL)
    (line,) = caplog.messages
    assert "part-000001.parquet" in line


def test_a_part_that_is_damaged_while_it_is_used_is_named_and_gone(tmp_path: Path) -> None:
    """The next try of the run makes it again."""
    fill(tmp_path, rank(0, 1))
    Folder.of(tmp_path).write("part-000001.parquet", b"PAR1")
    with pytest.raises(StorageError, match=r"part-000001\.parquet.*it was deleted") as caught:
        parts(tmp_path).read_all()
    assert not isinstance(caught.value, BrokenStorageError), "it would not be tried again"
    assert fill(tmp_path, rank(0, 1)) == [range(4, 8)]


def test_a_part_of_another_number_of_rows_is_no_part_of_these(tmp_path: Path) -> None:
    fill(tmp_path, rank(0, 1))
    fewer = TensorParts(Folder.of(tmp_path), rows=9, part_rows=4)
    with pytest.raises(StorageError, match=r"part-000002\.parquet.*rows it should"):
        fewer.read(2)
