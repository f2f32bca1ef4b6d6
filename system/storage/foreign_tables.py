"""Parquet that somebody else may have written, read within bounds.

A file of a few KB can unfold to any size: one long text in a dictionary that every row refers to,
pages that decompress to 2 GB, a run length of a billion equal numbers. What a file unfolds to is
counted by its pages' headers before it is decoded, and texts in dictionaries by their indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from system.storage.parquet_headers import (
    BYTE_ARRAY,
    FIXED_LEN_BYTE_ARRAY,
    Chunk,
    pages,
    row_groups,
)

if TYPE_CHECKING:  # imported where it is used: adapters are also read where there is no pyarrow
    import pyarrow as pa

#: A table may unfold to so many bytes, or so many times the size of its file if that is more.
MOST_BYTES = 512 << 20
MOST_TIMES = 16
#: Values, of which each becomes an object of Python: so many, or so many per byte of the file.
MOST_VALUES = 8_000_000
VALUES_PER_BYTE = 64

_WIDTHS = (1, 4, 8, 12, 4, 8)  # bytes of BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE
# PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY,
# RLE_DICTIONARY, BYTE_STREAM_SPLIT. Not DELTA_BYTE_ARRAY (7): each of its values may repeat the
# one before, so that its pages do not tell what they unfold to; promptide never writes it.
_ENCODINGS = {0, 2, 3, 4, 5, 6, 8, 9}


def read_table(data: bytes, *, values: bool = True) -> pa.Table:
    """The table of a Parquet file; `values`: its rows are to become objects of Python.

    Raises pa.ArrowException or OSError for a file that is damaged or unfolds beyond the bounds.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = BoundedParquet(pa.BufferReader(data))
    file.require_bounded(range(len(file.row_groups)), values=values)
    try:
        return pq.read_table(pa.BufferReader(data))
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"a column's name is no text: {error}") from error


class TableGroups:
    """The tables of a Parquet file's row groups, one at a time, as often as they are gone through.

    Each is within the bounds of `read_table` without `values`; so is the file, but for the texts
    that rows of several groups repeat. Raises as `read_table` does, also while it is gone through.
    """

    def __init__(self, data: bytes) -> None:
        import pyarrow as pa

        self._data = data
        file = BoundedParquet(pa.BufferReader(data))
        every = range(len(file.row_groups))
        file.require_bounded(every, values=False, texts=False)
        for group in every:
            file.require_bounded([group], values=False)

    def __iter__(self) -> Iterator[pa.Table]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(pa.BufferReader(self._data))
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)
        except UnicodeDecodeError as error:
            raise pa.ArrowInvalid(f"a column's name is no text: {error}") from error


class BoundedParquet:
    """Counts what row groups of a Parquet file unfold to, from its headers.

    Raises pa.ArrowInvalid for a file whose headers are damaged.
    """

    def __init__(self, stream: Any) -> None:
        """`stream` reads the file, and is read from wherever it stands."""
        self._stream = stream
        self._size = stream.size()
        with _as_arrow(""):
            self.row_groups = row_groups(stream, self._size)

    def require_bounded(
        self,
        groups: Iterable[int],
        columns: Sequence[str] | None = None,
        *,
        values: bool = True,
        texts: bool = True,
    ) -> None:
        """Compare what row groups unfold to, in these columns or all, with the bounds.

        `values`: their rows are to become objects of Python. `texts`: those of dictionaries count
        as often as rows refer to them. Raises pa.ArrowInvalid beyond the bounds.
        """
        import pyarrow as pa

        total = count = size = 0
        folded: dict[str, tuple[int, list[int]]] = {}  # by column: the most, and its row groups
        for group in groups:
            if not self.row_groups[group].chunks:
                count += self.row_groups[group].rows
            for chunk in self.row_groups[group].chunks:
                if columns is not None and chunk.path.split(".")[0] not in columns:
                    continue
                with _as_arrow(f"column {chunk.path}: "):
                    own, number, dictionary = _unfolded(self._stream, chunk)
                total += own
                count += max(number, self.row_groups[group].rows)
                size += chunk.size
                if dictionary and texts:
                    most, chosen = folded.get(chunk.path, (0, []))
                    folded[chunk.path] = most + dictionary * number, [*chosen, group]
        most_bytes = max(MOST_BYTES, MOST_TIMES * size)
        most_values = max(MOST_VALUES, VALUES_PER_BYTE * size)
        if total > most_bytes:
            raise pa.ArrowInvalid(f"it unfolds to more than the {most_bytes} bytes that are read")
        if values and count > most_values:
            raise pa.ArrowInvalid(
                f"it has {count} values, more than the {most_values} that are read"
            )
        for column, (most, chosen) in sorted(folded.items(), key=lambda item: item[1][0]):
            total += most if total + most <= most_bytes else self._texts(column, chosen)
            if total > most_bytes:
                raise pa.ArrowInvalid(
                    f"column {column} unfolds to more than the {most_bytes} bytes that are read"
                )

    def _texts(self, column: str, groups: Sequence[int]) -> int:
        """Bytes of a column's texts in some row groups, each as often as rows refer to it."""
        import pyarrow.parquet as pq

        self._stream.seek(0)
        file = pq.ParquetFile(self._stream, read_dictionary=[column])
        total = 0
        for group in groups:
            table = file.read_row_group(group, columns=[column])
            total += sum(_text_bytes(chunk) for chunk in table.column(0).chunks)
        return total


@contextmanager
def _as_arrow(where: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (ValueError, OverflowError, IndexError) as error:
        raise pa.ArrowInvalid(f"{where}{error}") from error


def _unfolded(stream: Any, chunk: Chunk) -> tuple[int, int, int]:
    """Bytes and values of a column chunk, and bytes of the dictionary that a value may repeat."""
    found = pages(stream, chunk.start, chunk.size)
    unknown = {page.encoding for page in found} - _ENCODINGS
    if unknown:
        raise ValueError(f"its encoding {min(unknown)} is not read; write it without")
    values = sum(page.values for page in found if not page.dictionary)
    values = max(values, chunk.values)
    total = sum(page.uncompressed for page in found)
    if chunk.kind == BYTE_ARRAY:
        dictionary = max((page.uncompressed for page in found if page.dictionary), default=0)
        return total, values, dictionary
    width = chunk.width if chunk.kind == FIXED_LEN_BYTE_ARRAY else _WIDTHS[chunk.kind]
    return max(total, values * width), values, 0


def _text_bytes(array: pa.Array) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary).cast(pa.int64())
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(array.type):
        return sum(_text_bytes(array.field(i)) for i in range(array.type.num_fields))
    if pa.types.is_nested(array.type):
        return _text_bytes(array.flatten())
    return int(array.nbytes)
