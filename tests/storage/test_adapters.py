"""Adapters come back to the bit, and only on the backbone they were learned with."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from system.errors import AdapterMismatchError, ConfigError, StorageError
from system.storage.adapters import (
    FORMAT_VERSION,
    HEADER,
    AdapterFolder,
    AdapterHeader,
    prefixed,
    require_same_backbone,
    task_file,
    under,
)
from system.storage.files import Folder

HEAD = AdapterHeader(
    backbone="shipped:tiny_clip",
    backbone_fingerprint="a" * 64,
    method={"name": "lpi", "rank": 4},
    benchmark="openmoji",
    benchmark_fingerprint="b" * 64,
    protocol="corrected",
    seed=3,
    tasks=("animal", "food"),
    router={"centers": 5},
)


@pytest.fixture
def adapters(tmp_path: Path) -> AdapterFolder:
    return AdapterFolder(Folder.of(tmp_path / "adapters"))


def test_round_trip_to_the_bit(adapters: AdapterFolder) -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 6, generator=generator)
    state = {
        "plain": wide,
        "transposed": wide.T,  # not contiguous in memory
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": wide.half(),
        "special": torch.tensor([float("inf"), -0.0, 1e-45]),
        "count": torch.arange(3),
    }
    adapters.save_header(HEAD)
    assert adapters.save_task(0, state) == task_file(0)
    assert adapters.header() == HEAD
    back = adapters.task(0)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value.detach()), name
    assert str(back["special"][1].item()) == "-0.0"


def test_no_pickle_is_written(adapters: AdapterFolder, tmp_path: Path) -> None:
    """A pickle runs code when it is loaded: adapters come from other people."""
    adapters.save_header(HEAD)
    adapters.save_task(0, {"a": torch.zeros(2)})
    assert {p.suffix for p in (tmp_path / "adapters").iterdir()} == {".json", ".safetensors"}


def test_count_stops_at_the_first_gap(adapters: AdapterFolder) -> None:
    """A task after a gap can't be used: the router would not know the one before."""
    assert adapters.count() == 0
    for index in (0, 1, 3):
        adapters.save_task(index, {"a": torch.zeros(1)})
    assert adapters.count() == 2


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, None])
def test_a_damaged_or_missing_task_is_named(adapters: AdapterFolder, content: bytes | None) -> None:
    adapters.save_task(0, {"a": torch.zeros(64)})
    if content is None:
        content = adapters.folder.read(task_file(0))[:-8]
    adapters.folder.write(task_file(0), content)
    with pytest.raises(StorageError, match=r"task-0000\.safetensors is damaged"):
        adapters.task(0)
    with pytest.raises(StorageError, match=r"task-0001\.safetensors cannot be read"):
        adapters.task(1)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ([], StorageError, "is no adapter header"),
        ({"format_version": FORMAT_VERSION + 1}, StorageError, "newer than .*update promptide"),
        (dataclasses.asdict(HEAD) | {"extra": 1}, ConfigError, r"adapter\.json\.extra"),
        ({"backbone": "x"}, ConfigError, r"adapter\.json\.backbone_fingerprint is missing"),
        (dataclasses.asdict(HEAD) | {"seed": "x"}, ConfigError, r"seed='x' must be of type int"),
    ],
)
def test_a_wrong_header_is_named(
    adapters: AdapterFolder, content: Any, error: type[Exception], message: str
) -> None:
    adapters.folder.write_json(HEADER, content)
    with pytest.raises(error, match=message) as caught:
        adapters.header()
    assert adapters.folder.uri in str(caught.value)


def test_a_folder_without_adapters_is_named(adapters: AdapterFolder) -> None:
    with pytest.raises(StorageError, match=rf"{adapters.folder.uri} holds no {HEADER}"):
        adapters.header()


def test_another_backbone_is_refused_by_name() -> None:
    require_same_backbone(HEAD, "a copy elsewhere", "a" * 64)
    with pytest.raises(AdapterMismatchError, match=r"'shipped:tiny_clip'.*not on 'other'.*cccc"):
        require_same_backbone(HEAD, "other", "c" * 64)


def test_parts_of_a_state_are_kept_apart() -> None:
    one, other = {"x": torch.zeros(1)}, {"x": torch.ones(1), "y.z": torch.ones(2)}
    state = prefixed("router", one) | prefixed("router2", other)
    assert under("router", state) == one
    assert under("router2", state) == other
