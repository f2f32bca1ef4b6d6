"""Rows are lost or counted wrongly where some are quarantined if these fail."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system.data.shards.loading import (
    read_images,
    read_texts,
)
from system.data.shards.manifest import SplitHandle
from system.data.shards.schema import records_to_table
from system.errors import DataError
from system.storage import foreign_tables
from tests.data.coco_files import train_handles
from tests.data.shards.conftest import Prepared


def image_ids(handle: SplitHandle) -> list[str]:
    return [row.image_id for row in read_images(handle, range(handle.rows))]


def test_the_other_rows_are_read_whole(tmp_path: Path) -> None:
    """A whole row group may be gone, and the first and last row."""
    handles = train_handles(tmp_path)
    handle = handles["food"]
    quarantined = frozenset({0, 4, 5, 6, 7, 17, 20})
    less = replace(handle, without=quarantined)
    kept = [row for row in range(handle.rows) if row not in quarantined]
    assert less.rows == len(kept) == 14
    every, texts = image_ids(handle), read_texts(handle)
    assert image_ids(less) == [every[row] for row in kept]
    assert read_texts(less) == [texts[row] for row in kept]
    assert [row.stored for row in read_images(less, range(less.rows))] == kept


def test_shard_that_changed_since_prepare_is_named(prepared: Prepared, tmp_path: Path) -> None:
    handle, records = prepared
    moved = replace(handle.shards[0], uri=str(tmp_path / "gone.parquet"))
    with pytest.raises(DataError, match=r"gone\.parquet: cannot be read.*promptide prepare"):
        read_texts(replace(handle, shards=(moved,)))
    pq.write_table(records_to_table(records[:3]), moved.uri)
    with pytest.raises(DataError, match=r"gone\.parquet: its rows or columns are not"):
        read_texts(replace(handle, shards=(moved,)))
    pq.write_table(
        records_to_table(records[:16]).drop_columns(["task"]), moved.uri, row_group_size=4
    )
    with pytest.raises(DataError, match=r"gone\.parquet: its rows or columns are not"):
        read_texts(replace(handle, shards=(moved,)))


def test_a_text_that_all_rows_repeat_is_not_unfolded(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark that somebody sent: a shard of a few KB could fill the memory of each worker."""
    handle, records = prepared
    monkeypatch.setattr(foreign_tables, "MOST_BYTES", 4 << 20)
    uri = str(tmp_path / "bomb.parquet")
    long = [replace(record, captions=("x" * (400 << 10),)) for record in records[:16]]
    pq.write_table(records_to_table(long), uri, row_group_size=16, compression="zstd")
    shard = replace(handle.shards[0], uri=uri, rows=16, row_groups=(16,))
    with pytest.raises(DataError, match=r"bomb\.parquet: .*captions.* unfolds to more"):
        read_texts(replace(handle, shards=(shard,)))
