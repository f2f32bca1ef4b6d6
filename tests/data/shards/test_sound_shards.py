"""A shard with one wrong bit is found before it is trained on, and each is read whole only once."""

import os
from pathlib import Path
from typing import Any

import pytest

from system.data.datasets.coco import CocoSource
from system.data.shards import sound_shards
from system.data.shards.manifest import Manifest, Shard
from system.data.shards.sound_shards import require_sound_shards
from system.errors import DataError
from tests.data.coco_files import prepare_coco, write_coco

TASKS = ("animal", "food", "person")


@pytest.fixture
def source(tmp_path: Path) -> CocoSource:
    return write_coco(tmp_path / "coco", {"train": 4, "val": 1, "test": 1}, TASKS)


@pytest.fixture
def prepared(source: CocoSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(sound_shards, "temporary_folder", lambda name: tmp_path / "node" / name)
    return prepare_coco(source, tmp_path / "data")


@pytest.fixture
def read_whole(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards whose checksums were computed."""
    seen: list[str] = []
    verify = Shard.verify

    def counted(shard: Shard, **how: Any) -> None:
        if how.get("deep"):
            seen.append(shard.uri)
        verify(shard, **how)

    monkeypatch.setattr(Shard, "verify", counted)
    return seen


def flip(shard: Shard) -> None:
    path = Path(shard.uri)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def shards_of(manifest: Manifest) -> list[str]:
    return [s.uri for task in manifest.tasks for split in task.splits.values() for s in split]


def test_one_flipped_bit_is_named_before_a_run_begins(prepared: Manifest) -> None:
    """Parquet itself would give other pixels without a word."""
    require_sound_shards(prepared)
    (shard, *_) = prepared.task("food").handle("train").shards
    flip(shard)
    with pytest.raises(DataError, match=rf"{shard.uri}: its checksum.*prepare"):
        require_sound_shards(prepared)


def test_a_shard_is_read_whole_once_per_node_and_when_it_was_changed(
    prepared: Manifest, read_whole: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start would else read the whole data set first."""
    uris = shards_of(prepared)
    for _ in range(2):
        require_sound_shards(prepared)
    assert read_whole == uris
    os.utime(uris[0], (1, 1))
    require_sound_shards(prepared)
    assert read_whole == [*uris, uris[0]]
    monkeypatch.setattr(sound_shards, "temporary_folder", lambda name: tmp_path / "other" / name)
    require_sound_shards(prepared)
    assert read_whole == [*uris, uris[0], *uris]


def test_a_node_without_a_working_disk_reads_them_each_time(
    prepared: Manifest, read_whole: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(sound_shards, "temporary_folder", lambda name: tmp_path / "file" / name)
    for _ in range(2):
        require_sound_shards(prepared)
    assert read_whole == 2 * shards_of(prepared)


def test_a_damaged_shard_is_made_again_by_prepare(
    prepared: Manifest, source: CocoSource, tmp_path: Path
) -> None:
    """The error says so."""
    shard = prepared.task("food").handle("train").shards[0]
    before = Path(shard.uri).read_bytes()
    flip(shard)
    again = prepare_coco(source, tmp_path / "data")
    assert Path(again.task("food").handle("train").shards[0].uri).read_bytes() == before
    assert again.fingerprint == prepared.fingerprint


def test_a_manifest_with_one_changed_byte_is_named(
    prepared: Manifest, source: CocoSource, tmp_path: Path
) -> None:
    """It says how many rows were left out, too."""
    file = tmp_path / "data" / "manifest.json"
    file.write_text(file.read_text().replace('"version": ', '"version":  ', 1))
    with pytest.raises(DataError, match=rf"{file}: is damaged.*delete it, then run `promptide pre"):
        Manifest.load(str(tmp_path / "data"))
    file.unlink()
    prepare_coco(source, tmp_path / "data")
    assert Manifest.load(str(tmp_path / "data")) == prepared
