"""Images inside Parquet tables: a column of {bytes, path}, as Hugging Face writes it, or of bytes.

A table's image is found by its row: `StoredImage(path of the table, start=row, length=bytes)`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from system.data.prepare.image_files import StoredImage

_BATCH_ROWS = 16  # read at once: a few MB of photographs
_HELD_BYTES, _HELD_BATCHES = 32 << 20, 64  # of one table, that threads may still ask for
_OPEN_TABLES = 4


@dataclass(frozen=True, slots=True, repr=False)
class TableImage:
    """Where an image lies in a table, as plain values: the table's path, and the row from 0 on.

    `size` is in bytes, `digest` the SHA-256; `name` is the image's own, None if it has none.
    """

    table: str
    row: int
    size: int
    digest: str
    name: str | None

    def __repr__(self) -> str:
        return f"an image of {self.size} bytes"

    @property
    def stored(self) -> StoredImage:
        """The place as `ParquetImages` reads it."""
        return StoredImage(Path(self.table), self.row, self.size)


def image_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Return the names of the columns that hold encoded images: {bytes, path} or plain bytes."""
    return tuple(field.name for field in schema if _is_binary(_bytes_type(field.type)))


def read_images(
    path: Path, column: str, columns: Sequence[str]
) -> Iterator[tuple[dict[str, Any], TableImage | None]]:
    """Go through a table's rows: the values of `columns`, and the image (None: it has no bytes).

    Each image is read once for its size and digest; a few rows are in memory at a time.
    Raises: OSError, pyarrow.ArrowException.
    """
    with _open(path) as table:
        others = [name for name in columns if name != column]
        batches = table.iter_batches(_BATCH_ROWS, columns=[*others, column])
        row = 0
        for batch in batches:
            images = batch.column(column)
            nested = pa.types.is_struct(images.type)
            names = None
            if nested:
                if images.type.get_field_index("path") >= 0:
                    names = images.field("path").to_pylist()
                images = images.field("bytes")
            for index, values in enumerate(batch.select(others).to_pylist()):
                buffer = images[index].as_buffer() if images[index].is_valid else None
                found = None
                if buffer is not None and buffer.size:
                    found = TableImage(
                        str(path),
                        row,
                        buffer.size,
                        hashlib.sha256(buffer).hexdigest(),
                        names[index] or None if names else None,
                    )
                row += 1
                yield values, found


class ParquetImages:
    """Reads images from the column of that name; an `ImageReader`.

    Rows are best asked for in their order: going back reads the row's group again from its start.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._tables: OrderedDict[Path, _Cursor] = OrderedDict()
        self._lock = Lock()

    def stamp(self, image: StoredImage) -> tuple[int, int]:
        """Return the image's size in bytes and when its table was changed. Raises: OSError."""
        assert image.length is not None
        return image.length, image.path.stat().st_mtime_ns

    def read(self, image: StoredImage) -> bytes:
        """Return the encoded bytes. Raises: OSError."""
        with self._lock:
            cursor = self._tables.get(image.path)
            try:
                if cursor is None:
                    cursor = self._tables[image.path] = _Cursor(image.path, self._column)
                    if len(self._tables) > _OPEN_TABLES:
                        self._tables.popitem(last=False)[1].close()
                self._tables.move_to_end(image.path)
                data = cursor.read(image.start)
            # A column that is gone and a group of fewer rows than it says are damages too.
            except (pa.ArrowException, KeyError, StopIteration) as error:
                raise OSError(" ".join(str(error).split()) or "damaged") from error
        if len(data) != image.length:
            raise OSError(f"row {image.start + 1} has changed since the table was read")
        return data


class _Cursor:
    """Reads a table's images; memory is that of a few pages, however large its row groups are."""

    def __init__(self, path: Path, column: str) -> None:
        self._table = _open(path)
        field = self._table.schema_arrow.field(column)
        self._nested = pa.types.is_struct(field.type)
        self._column, self._leaf = column, f"{column}.bytes" if self._nested else column
        metadata = self._table.metadata
        self._starts = [0]
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._held: OrderedDict[int, pa.Array] = OrderedDict()  # batches by their first row
        self._held_bytes = 0
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._next = 0  # row that the next batch starts with

    def close(self) -> None:
        self._table.close()

    def read(self, row: int) -> bytes:
        for first, batch in self._held.items():
            if first <= row < first + len(batch):
                return batch[row - first].as_py() or b""
        if not 0 <= row < self._starts[-1]:
            raise OSError(f"has no row {row + 1} any more")
        group = next(g for g, end in enumerate(self._starts[1:]) if row < end)
        if group != self._group or row < self._next:
            self._batches = self._table.iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=[self._leaf]
            )
            self._group, self._next = group, self._starts[group]
        while True:
            images = next(self._batches).column(self._column)
            if self._nested:
                images = images.field("bytes")
            first = self._next
            self._next += len(images)
            if row < self._next:
                self._hold(first, images)
                return images[row - first].as_py() or b""

    def _hold(self, first: int, batch: pa.Array) -> None:
        self._held[first] = batch
        self._held_bytes += batch.nbytes
        while len(self._held) > 1 and (
            self._held_bytes > _HELD_BYTES or len(self._held) > _HELD_BATCHES
        ):
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes


def _open(path: Path) -> pq.ParquetFile:
    # Without its read-ahead, which would hold a whole row group.
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return kind.field("bytes").type
    return kind


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
