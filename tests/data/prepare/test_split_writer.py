"""An interrupted preparation starts over, or forgets broken rows, if these fail."""

from pathlib import Path
from typing import Any

import pytest

from system.data.shards.faults import Faults
from tests.data.generated_splits import Generated, write


def test_what_is_finished_is_kept_and_an_interrupted_split_goes_on(tmp_path: Path) -> None:
    root = str(tmp_path / "out")
    train, broken = Generated(9), Generated(8, broken=5)
    with pytest.raises(KeyboardInterrupt):
        write({"train": train, "test": broken}, root, row_group_rows=1, shard_rows=1)
    assert not (tmp_path / "out/manifest.json").exists()
    again, whole = Generated(9), Generated(8)
    resumed = write({"train": again, "test": whole}, root, row_group_rows=1, shard_rows=1)
    # Image 5 was never loaded; those before it are in shards of one row, already written.
    assert (train.loaded, again.loaded, whole.loaded) == (9, 0, 3)
    fresh = write(
        {"train": Generated(9), "test": Generated(8)},
        str(tmp_path / "fresh"),
        row_group_rows=1,
        shard_rows=1,
    )
    assert resumed.fingerprint == fresh.fingerprint
    assert [p for p in (tmp_path / "out").rglob("*") if p.suffix == ".tmp"] == []


def test_broken_rows_of_an_interrupted_split_are_not_forgotten(tmp_path: Path) -> None:
    """The list would say that fewer rows are missing than are."""
    settings: dict[str, Any] = {"row_group_rows": 2, "shard_rows": 2, "threads": 1}
    damaged = {1: b"", 8: b"", 11: b""}
    found = []
    for root in ("resumed", "whole"):
        if root == "resumed":
            broken, faults = Generated(14, broken=10, damaged=damaged), Faults("quarantine")
            with pytest.raises(KeyboardInterrupt):
                write({"train": broken}, str(tmp_path / root), faults=faults, **settings)
        again, faults = Generated(14, damaged=damaged), Faults("quarantine")
        manifest = write({"train": again}, str(tmp_path / root), faults=faults, **settings)
        found.append((manifest.fingerprint, manifest.quarantined, faults.found))
        assert again.loaded == (14 if root == "whole" else 5)
    assert found[0] == found[1]
    assert [fault.name for fault in found[0][2]] == ["1.png", "8.png", "11.png"]


def test_damaged_shard_is_written_again(tmp_path: Path) -> None:
    root = str(tmp_path / "out")
    shard = write({"train": Generated(9)}, root).tasks[0].handle("train").shards[0]
    Path(shard.uri).write_bytes(b"PAR1")
    write({"train": Generated(9)}, root).verify(deep=True)
