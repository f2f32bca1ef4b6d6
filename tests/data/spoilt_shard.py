"""Damage to a prepared shard that its row groups do not show."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from system.data.shards.manifest import SplitHandle


def spoil_images(handle: SplitHandle, rows: list[int]) -> list[str]:
    """Cut the images of some rows (by their numbers in the shards) short; their file names."""
    names, start = [], 0
    for shard in handle.shards:
        file, table = Path(shard.uri), pq.read_table(shard.uri)
        images = table.column("image").to_pylist()
        for row in rows:
            if start <= row < start + len(images):
                images[row - start] = images[row - start][:40]
                names.append(table.column("file_name")[row - start].as_py())
        at = table.schema.get_field_index("image")
        table = table.set_column(at, table.schema.field(at), [pa.array(images, pa.binary())])
        with pq.ParquetWriter(file, table.schema) as writer:
            first = 0
            for count in shard.row_groups:
                writer.write_table(table.slice(first, count), row_group_size=count)
                first += count
        start += len(images)
    return names
