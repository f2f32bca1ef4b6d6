"""A half-written shard is taken for a whole one if these fail."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system.data.prepare.shard_files import TaskShardWriter
from system.errors import StorageError
from tests.data.generated_splits import Generated, file_size_limit, write


def test_files_are_numbered_and_known_by_rows_and_checksum(tmp_path: Path) -> None:
    writer, split = TaskShardWriter(str(tmp_path), "low", 3, 2, 4), Generated(9)
    found = [shard for n in range(9) if (shard := writer.append(split.load(n))) is not None]
    shards = [*found, *writer.close()]
    assert [shard.uri for shard in shards] == [f"{tmp_path}/low-0000{n}.parquet" for n in (3, 4, 5)]
    assert [shard.row_groups for shard in shards] == [(2, 2), (2, 2), (1,)]
    for shard in shards:
        assert shard.sha256 == hashlib.sha256(Path(shard.uri).read_bytes()).hexdigest()
        assert pq.read_metadata(shard.uri).num_rows == shard.rows
    assert writer.close() == ()


def test_an_abandoned_file_never_gets_its_name(tmp_path: Path) -> None:
    writer = TaskShardWriter(str(tmp_path), "low", 0, 1, 8)
    writer.append(Generated(1).load(0))
    writer.abandon()
    assert list(tmp_path.glob("*.parquet")) == []


def test_full_disk_is_a_storage_error_that_names_the_shard(tmp_path: Path) -> None:
    with file_size_limit(20_000), pytest.raises(StorageError, match=r"low-00000\.parquet: cannot"):
        write({"train": Generated(40, large=True)}, str(tmp_path), row_group_rows=2)
    assert not (tmp_path / "manifest.json").exists()
