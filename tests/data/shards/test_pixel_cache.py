"""Pixels from the cache are those that decoding gives, whatever happens to its files."""

import errno
import gc
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from system.data.shards import loading, pixel_cache
from system.data.shards.loading import row_selection, training_batches
from system.data.shards.manifest import Shard, SplitHandle
from system.data.shards.pixel_cache import PixelCache
from system.data.shards.shard_reader import SplitReader
from system.storage.kept_rows import KeptRows, file_size
from tests.data.shards.conftest import Prepared

SHAPE = (3, 4, 4)
PARTS = ((SHAPE, torch.uint8),)
ROW = 64  # bytes
SHARD = Shard("/nowhere.parquet", 10, (10,), "a1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pixels"
    monkeypatch.setattr(pixel_cache, "cache_folder", lambda: path)
    return path


class Noted:
    """A cache, and the lines that it has added to the log."""

    def __init__(self, limit: float = 1e6, key: str = "squeezed") -> None:
        self.lines: list[str] = []
        self.cache = PixelCache(key, SHAPE, limit, self.lines.append)


def shrunk(image: Image.Image, rng: np.random.Generator | None) -> Tensor:
    return torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1).contiguous()


def pixels(row: int) -> Tensor:
    return torch.full(SHAPE, row, dtype=torch.uint8)


def read_rows(handle: SplitHandle, cache: PixelCache | None, threads: int = 2) -> Tensor:
    chunks = row_selection(
        handle,
        range(handle.rows),
        batch_rows=5,
        transform=shrunk,
        threads=threads,
        cache=cache,
    )
    return torch.cat([chunk.images for chunk in chunks])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are decoded during a test."""
    found: list[int] = []
    image = loading._image

    def counted(row: Any) -> Image.Image:
        found.append(row.row)
        return image(row)

    monkeypatch.setattr(loading, "_image", counted)
    return found


def test_each_image_is_decoded_once_and_comes_back_the_same(
    prepared: Prepared, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once all of a row group are there, not even their bytes are read."""
    handle, _ = prepared
    expected = read_rows(handle, None)
    decoded.clear()
    first, second = Noted(), Noted()
    assert torch.equal(read_rows(handle, first.cache), expected)
    assert sorted(decoded) == list(range(handle.rows))
    decoded.clear()
    read: list[str] = []
    group = SplitReader.read_group

    def recorded(self: SplitReader, index: int, columns: Sequence[str]) -> Any:
        read.extend(columns)
        return group(self, index, columns)

    monkeypatch.setattr(SplitReader, "read_group", recorded)
    for noted in (first, second):  # another epoch, and another process's own opening
        assert torch.equal(read_rows(handle, noted.cache), expected)
        assert noted.lines == []
    assert decoded == []
    assert "image" not in read
    assert "captions" in read


def test_training_takes_from_the_cache_what_evaluation_put_there(
    prepared: Prepared, decoded: list[int]
) -> None:
    """The cache is the shards', not an epoch's: batches are the same with it and without."""
    handle, _ = prepared

    def epoch(cache: PixelCache | None) -> list[Tensor]:
        steps = training_batches(
            handle,
            batch_size=8,
            micro_batches=2,
            slots=[0, 1],
            seed=[3],
            transform=shrunk,
            threads=2,
            shuffle_buffer=8,
            cache=cache,
        )
        return [micro.images for step in steps for micro in step]

    plain = epoch(None)
    read_rows(handle, Noted().cache)
    decoded.clear()
    for one, two in zip(plain, epoch(Noted().cache), strict=True):
        assert torch.equal(one, two)
    assert decoded == []


def test_a_quarantined_row_does_not_shift_the_others(prepared: Prepared) -> None:
    """Rows are counted in the shards, so that a run which leaves one out shares the files."""
    handle, _ = prepared
    every = read_rows(handle, Noted().cache)
    left = [row for row in range(handle.rows) if row not in (2, 20)]
    assert torch.equal(read_rows(handle.leaving_out([2, 20]), Noted().cache), every[left])


def test_pixels_of_another_transform_or_shard_are_not_taken_for_these() -> None:
    one = Noted().cache.of(SHARD)
    assert one is not None
    one.put(3, [pixels(3)])
    others = [
        Noted(key="cropped").cache.of(SHARD),
        Noted().cache.of(Shard(SHARD.uri, 10, (10,), "b2")),
        PixelCache("squeezed", (3, 2, 8), 1e6, print).of(SHARD),
    ]
    for other in others:
        assert other is not None
        assert other.read(3) is None
    same = Noted().cache.of(Shard("/moved.parquet", 10, (10,), "a1"))
    assert same is not None
    found = same.read(3)
    assert found is not None
    assert torch.equal(found[0], pixels(3))


def damaged_byte(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(file_size(10, PARTS) - 7 * ROW + 7)
        stream.write(b"\xff")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def header(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"something else")


def emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [cut, header, emptied])
def test_a_file_that_is_not_whole_is_dropped_with_one_line(
    damage: Callable[[Path], None], folder: Path
) -> None:
    file = Noted().cache.of(SHARD)
    assert file is not None
    file.put(3, [pixels(3)])
    damage(file.path)
    noted = Noted()
    again = noted.cache.of(SHARD)
    assert again is not None
    assert not again.has(3)
    (line,) = noted.lines
    assert str(file.path) in line
    assert "made anew" in line


@pytest.mark.parametrize("damage", [damaged_byte, cut, emptied])
def test_damage_behind_a_reader_s_back_costs_a_line_and_no_pixel(
    prepared: Prepared, damage: Callable[[Path], None], folder: Path, decoded: list[int]
) -> None:
    """A mapped file that is cut off kills whoever reads behind its end."""
    handle, _ = prepared
    noted = Noted()
    expected = read_rows(handle, noted.cache)
    first = noted.cache.of(handle.shards[0])
    assert first is not None
    rows = handle.shards[0].rows
    if damage is damaged_byte:
        with first.path.open("r+b") as stream:
            stream.seek(file_size(rows, PARTS) - (rows - 3) * ROW + 7)
            byte = stream.read(1)
            stream.seek(-1, os.SEEK_CUR)
            stream.write(bytes([byte[0] ^ 1]))
    else:
        damage(first.path)
    decoded.clear()
    for _ in range(2):
        assert torch.equal(read_rows(handle, noted.cache, threads=1), expected)
    assert len(noted.lines) == 1
    assert set(decoded) <= set(range(rows))
    decoded.clear()
    assert torch.equal(read_rows(handle, Noted().cache), expected)
    assert decoded == []


def fill(folder: Path, start: Any) -> None:
    pixel_cache.cache_folder = lambda: folder
    start.wait()
    file = Noted().cache.of(SHARD)
    assert file is not None
    for row in range(10):
        file.put(row, [pixels(row)])


def test_processes_that_make_the_same_file_at_once_agree(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=fill, args=(folder, start)) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    file = Noted().cache.of(SHARD)
    assert file is not None
    for row in range(10):
        found = file.read(row)
        assert found is not None
        assert torch.equal(found[0], pixels(row))
    assert {path.name for path in folder.iterdir()} == {"lock", file.path.name}


def test_files_that_nobody_uses_make_room_oldest_first(folder: Path) -> None:
    """And those in use stay, whoever asks: a shard that finds no room is decoded, and said once."""
    size = file_size(10, PARTS)
    shards = [Shard(f"/{name}.parquet", 10, (10,), name) for name in "abcd"]
    before = Noted()
    paths = []
    for age, shard in enumerate(shards[:2]):
        file = before.cache.of(shard)
        assert file is not None
        paths.append(file.path)
        os.utime(file.path, (1000 + age, 1000 + age))
    del before, file
    gc.collect()  # their process has ended
    noted = Noted(limit=2 * size)
    assert noted.cache.of(shards[2]) is not None
    assert [path.exists() for path in paths] == [False, True]
    assert noted.cache.of(shards[3]) is not None
    assert not paths[1].exists()
    assert noted.lines == []
    full = Noted(limit=2 * size)
    for _ in range(2):
        assert full.cache.of(shards[0]) is None
    (line,) = full.lines
    assert "no room" in line
    assert "stage.cache_gb" in line
    assert sum(path.stat().st_size for path in folder.glob("*.rows")) <= 2 * size


def test_a_full_or_missing_disk_leaves_training_as_it_is(
    prepared: Prepared, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, _ = prepared
    expected = read_rows(handle, None)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    noted = Noted()
    assert torch.equal(read_rows(handle, noted.cache), expected)
    assert len(noted.lines) == 1  # for all shards
    assert "No space left" in noted.lines[0]
    assert list(folder.glob(".*")) == []
    monkeypatch.undo()
    monkeypatch.setattr(pixel_cache, "cache_folder", lambda: folder)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(total=10**6, used=0, free=10**4)
    )
    noted = Noted()
    assert torch.equal(read_rows(handle, noted.cache), expected)  # a twentieth stays free
    assert "no room" in noted.lines[0]
    (folder / "file").touch()
    monkeypatch.setattr(pixel_cache, "cache_folder", lambda: folder / "file" / "there")
    noted = Noted()
    assert torch.equal(read_rows(handle, noted.cache), expected)
    assert "cannot be used" in noted.lines[0]


def test_a_folder_of_another_user_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may make a folder of that name on a node's disk, and put pixels into it."""
    assert Noted().cache.of(SHARD) is not None
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    noted = Noted()
    assert noted.cache.of(SHARD) is None
    assert "another user's" in noted.lines[0]


def test_a_write_that_fails_ends_the_keeping(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, _ = prepared
    expected = read_rows(handle, None)

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    noted = Noted()
    assert torch.equal(read_rows(handle, noted.cache, threads=1), expected)
    assert len(noted.lines) == 1  # for all shards
    assert "Input/output error" in noted.lines[0]


def test_what_is_random_is_not_kept() -> None:
    lines: list[str] = []
    assert PixelCache.wanted(None, "squeezed", SHAPE, lines.append) is None
    assert lines == []
    assert PixelCache.wanted(0.5, None, SHAPE, lines.append) is None
    assert "pixel cache" in lines[0]
    kept = PixelCache.wanted(0.5, "squeezed", SHAPE)
    assert kept is not None
    assert kept.folder.limit == 5e8


def test_rows_that_were_read_outlive_their_file() -> None:
    """A batch is put together after the loader may have dropped the file."""
    noted = Noted()
    file: KeptRows | None = noted.cache.of(SHARD)
    assert file is not None
    file.put(1, [pixels(1)])
    found = file.read(1)
    file.path.unlink()
    del file, noted
    gc.collect()
    assert found is not None
    assert torch.equal(found[0], pixels(1))
