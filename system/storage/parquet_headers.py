"""What the footer and the pages' headers of a Parquet file say, before anything unfolds.

A footer may lie, and a reader allocates what a page's header says, so that both are read.

Source: https://github.com/apache/parquet-format, `src/main/thrift/parquet.thrift`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from system.storage.thrift_structs import CutShortError, StructReader

BYTE_ARRAY, FIXED_LEN_BYTE_ARRAY = 6, 7  # physical types

_MAGIC = b"PAR1"
_MOST_FOOTER_BYTES = 64 << 20
_WINDOW = 1 << 12  # bytes that are read for a page's header first
_LONGEST = 1 << 24  # a page's header with the statistics of two long texts


@dataclass(frozen=True)
class Chunk:
    """A column of a row group by the footer: where its pages lie, and its values."""

    path: str  # names in the schema, joined by dots
    kind: int  # its physical type
    width: int  # of FIXED_LEN_BYTE_ARRAY, in bytes
    start: int
    size: int
    values: int


@dataclass(frozen=True)
class RowGroup:
    """One row group by the footer."""

    rows: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Page:
    """One page by its header: bytes once decompressed, values, and how these are encoded."""

    dictionary: bool
    uncompressed: int
    values: int
    encoding: int


def row_groups(stream: Any, size: int) -> list[RowGroup]:
    """The row groups of a file of `size` bytes. Raises ValueError for what is no Parquet."""
    stream.seek(max(size - 8, 0))
    end = bytes(stream.read(8))
    length = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or length > min(size - 8, _MOST_FOOTER_BYTES):
        raise ValueError("it has no footer that is read")
    stream.seek(size - 8 - length)
    footer = StructReader(bytes(stream.read(length))).fields()
    widths = [
        _number(element, 2, 0)
        for element in _structs(footer, 2)
        if not _number(element, 5, 0)  # else it has children
    ]
    return [_row_group(group, widths) for group in _structs(footer, 4)]


def _row_group(group: dict[int, Any], widths: list[int]) -> RowGroup:
    columns = _structs(group, 1)
    if len(columns) > len(widths):
        raise ValueError("a row group has more columns than its schema")
    return RowGroup(
        _number(group, 3),
        tuple(_chunk(column.get(3), width) for column, width in zip(columns, widths, strict=False)),
    )


def _chunk(column: object, width: int) -> Chunk:
    if not isinstance(column, dict):  # encrypted, or in another file
        raise ValueError("a column is not described")
    path = column.get(3)
    if not isinstance(path, list) or not all(isinstance(name, bytes) for name in path):
        raise ValueError("a column has no name")
    # A column without rows may have a dictionary alone, and 0 as the place of its data.
    places = [place for place in (_number(column, 9), _number(column, 11, 0)) if place]
    return Chunk(
        b".".join(path).decode("utf-8", "replace"),
        _number(column, 1),
        width,
        min(places, default=0),
        _number(column, 7),
        _number(column, 5),
    )


def pages(stream: Any, start: int, size: int) -> list[Page]:
    """The pages of a column chunk, which begins at `start` and has `size` bytes.

    Raises ValueError where these are no pages.
    """
    found, place, end = [], start, start + size
    while place < end:
        header, length = _page_header(stream, place, end)
        uncompressed, compressed = _number(header, 2), _number(header, 3)
        place += length + compressed
        if place > end:
            raise ValueError("a page is larger than its column")
        for field, encoding in ((5, 2), (7, 2), (8, 4)):  # data, dictionary, data of version 2
            if isinstance(inner := header.get(field), dict):
                page = Page(field == 7, uncompressed, _number(inner, 1), _number(inner, encoding))
                found.append(page)
    return found


def _page_header(stream: Any, place: int, end: int) -> tuple[dict[int, Any], int]:
    """The page header at `place`, and its length in bytes."""
    most = min(_LONGEST, end - place)
    window = min(_WINDOW, most)
    while True:
        stream.seek(place)
        struct = StructReader(bytes(stream.read(window)))
        try:
            return struct.fields(), struct.place
        except CutShortError:
            if window == most:
                raise
            window = min(window * 16, most)


def _structs(fields: dict[int, Any], number: int) -> list[dict[int, Any]]:
    found = fields.get(number, [])
    if not isinstance(found, list) or not all(isinstance(value, dict) for value in found):
        raise ValueError(f"field {number} of its footer is no list of structs")
    return found


def _number(fields: dict[int, Any], number: int, default: int = -1) -> int:
    found = fields.get(number, default)
    if not isinstance(found, int) or found < 0:
        raise ValueError(f"field {number} of a header is missing or no size")
    return int(found)
