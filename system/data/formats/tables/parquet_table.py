"""Parquet as a table: values keep their types, images lie in it or beside it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from system.data.formats.parquet_images import image_columns, read_images
from system.data.formats.tables.layout import Row
from system.data.shards.faults import Faults

_ROWS = 1024


class ParquetTable:
    """A Parquet file; an image column's values are `TableImage`s, None without bytes."""

    advice = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        with pq.ParquetFile(path) as file:
            schema: pa.Schema = file.schema_arrow
        self.columns: Sequence[str] = schema.names
        self.images: Sequence[str] = image_columns(schema)

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the rows, without the bytes of images: those are read and digested."""
        images = [name for name in columns if name in self.images]
        rows = self._with_images(images[0], columns) if images else self._plain(columns)
        for number, values in enumerate(rows, 1):
            yield f"{self._path}, row {number}", values

    def _plain(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(_ROWS, columns=list(columns)):
                yield from batch.to_pylist()

    def _with_images(self, column: str, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        for values, image in read_images(self._path, column, columns):
            yield {**values, column: image}
