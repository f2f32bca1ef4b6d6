"""Rows of tensors in parts: what was made stays, and comes back to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from system.engine.shared_parts import make_parts
from system.engine.worker_group import WorkerGroup
from system.errors import StorageError
from system.storage import tensor_parts
from system.storage.files import Folder
from system.storage.tensor_parts import TensorParts

ALL = torch.randn(10, 2, 3, generator=torch.Generator().manual_seed(0))


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
    monkeypatch.setattr(tensor_parts, "HELD_BYTES", 150)  # a part has 112
    opened = parts(tmp_path)
    for row in (0, 9, 0):
        assert torch.equal(opened.take([row])["x"][0], ALL[row])
        assert len(opened._held) == 1


@pytest.mark.parametrize("damage", [b"", b"PAR1"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: bytes) -> None:
    fill(tmp_path, rank(0, 1))
    Folder.of(tmp_path).write("part-000001.parquet", damage)
    with pytest.raises(StorageError, match=r"part-000001\.parquet"):
        parts(tmp_path).read_all()
    fewer = TensorParts(Folder.of(tmp_path), rows=9, part_rows=4)
    with pytest.raises(StorageError, match=r"part-000002\.parquet.*delete it"):
        fewer.read(2)
