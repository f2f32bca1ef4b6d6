"""Rows on disk that several processes fill: never a wrong one, never more than the limit."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from system.errors import StorageError
from system.storage.kept_rows import HEADER, LOCK, KeptFolder, KeptRows, parts_of

COUNT = 6


def tensors(row: int) -> list[Tensor]:
    """A wide tensor and a narrow one, whose bytes are no multiple of four."""
    draw = torch.Generator().manual_seed(row)
    narrow = torch.randn(3, 1, 1, generator=draw).bfloat16()
    return [torch.randn(2, 3, generator=draw), narrow]


PARTS = parts_of(tensors(0))


def folder(path: Path, limit: float = 1e6, notes: list[str] | None = None) -> KeptFolder:
    return KeptFolder(path, limit, ([] if notes is None else notes).append, "stage.kept_gb=null")


def filled(kept: KeptRows) -> KeptRows:
    """Each row that was missing put in."""
    for row in kept.missing(range(COUNT)):
        kept.put(row, tensors(row))
    assert not kept.missing(range(COUNT))
    return kept


def same(kept: KeptRows) -> bool:
    rows = kept.take(slice(1, COUNT))
    wanted = [torch.stack(part) for part in zip(*map(tensors, range(1, COUNT)), strict=True)]
    return all(torch.equal(own, part) for own, part in zip(rows, wanted, strict=True))


def test_another_process_reads_what_one_wrote_to_the_bit(tmp_path: Path) -> None:
    filled(folder(tmp_path).make("key", COUNT, PARTS))
    found = folder(tmp_path).find("key", COUNT)
    assert found is not None
    assert not found.missing(range(COUNT))
    assert same(found)
    assert folder(tmp_path).find("other", COUNT) is None


def test_several_fill_one_file_at_once(tmp_path: Path) -> None:
    """Trials start together: none may take a row of which another wrote the half."""

    def fill(_: int) -> bool:
        return same(filled(folder(tmp_path).make("key", COUNT, PARTS)))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fill, range(32)))
    assert {path.name for path in tmp_path.iterdir()} == {"key.rows", LOCK}


def test_a_damaged_row_is_made_anew_and_named(tmp_path: Path) -> None:
    """A flipped bit would be learned from for ever after."""
    filled(folder(tmp_path).make("key", COUNT, PARTS))
    path = tmp_path / "key.rows"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # of the last row
    path.write_bytes(content)
    notes: list[str] = []
    found = folder(tmp_path, notes=notes).find("key", COUNT)
    assert found is not None
    assert found.missing(range(COUNT)) == [COUNT - 1]
    assert notes == [f"{path}: rows are damaged, and made anew"]
    assert found.read(COUNT - 1) is None
    assert same(filled(found))


@pytest.mark.parametrize("damage", ["cut", "header", "layout"])
def test_a_damaged_file_is_dropped_with_one_line(tmp_path: Path, damage: str) -> None:
    filled(folder(tmp_path).make("key", COUNT, PARTS))
    path = tmp_path / "key.rows"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-1],
            "header": b"x" + content[1:],
            "layout": content[:HEADER].replace(b"float32", b"float99") + content[HEADER:],
        }[damage]
    )
    notes: list[str] = []
    own = folder(tmp_path, notes=notes)
    assert own.find("key", COUNT) is None
    assert notes == [f"{path}: damaged, and made anew"]
    assert same(filled(own.make("key", COUNT, PARTS)))


def names(path: Path) -> list[str]:
    return sorted(file.stem for file in path.glob("*.rows"))


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    """A disk that fills up would stop every run on the node."""
    size = os.path.getsize(folder(tmp_path).make("old", COUNT, PARTS).path)
    folder(tmp_path).make("used", COUNT, PARTS)
    for name, at in (("old", 1), ("used", 2)):
        os.utime(tmp_path / f"{name}.rows", (at, at))
    own, other = folder(tmp_path, 2.5 * size), folder(tmp_path, 2.5 * size)
    opened = [other.find("old", COUNT)]  # used now, by whoever it is
    opened.append(own.make("new", COUNT, PARTS))
    assert names(tmp_path) == ["new", "old"]
    assert own.make_within("newer", COUNT, PARTS) is None
    opened.append(own.make("newer", COUNT, PARTS))  # what is open stays
    assert names(tmp_path) == ["new", "newer", "old"]
    opened.clear()
    assert own.make_within("newest", COUNT, PARTS) is not None
    assert names(tmp_path) == ["newer", "newest"]
    assert own.fits(COUNT, PARTS)
    assert not own.fits(100 * COUNT, PARTS)


def test_a_file_that_is_cut_off_while_it_is_read_costs_a_line(tmp_path: Path) -> None:
    """A page of a mapping that is not in its file any more kills the process that reads it."""
    notes: list[str] = []
    kept = filled(folder(tmp_path, notes=notes).make("key", COUNT, PARTS))
    os.truncate(kept.path, 0)
    assert not kept.has(0)
    assert kept.read(1) is None
    assert kept.missing(range(COUNT)) == list(range(COUNT))
    assert same(filled(kept))
    assert notes == [f"{kept.path}: rows are damaged, and made anew"]


def test_a_full_disk_is_an_error_that_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written through the mapping, it would kill the process by a signal."""
    kept = folder(tmp_path).make("key", COUNT, PARTS)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=r"No space left.*stage\.kept_gb=null"):
        kept.put(0, tensors(0))
