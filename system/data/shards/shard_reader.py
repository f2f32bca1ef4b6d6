"""Streamed reading of a split: one row group of images in memory per reader."""

from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from system.data.shards.images import PLAIN, Decoding, web_picture
from system.data.shards.manifest import SplitHandle
from system.data.shards.pixel_cache import CachedRow, PixelCache
from system.data.shards.schema import SHARD_SCHEMAS
from system.errors import DataError
from system.storage.files import filesystem_of, is_local
from system.storage.foreign_tables import BoundedParquet

_TEXT_COLUMNS = ("image_id", "file_name", "captions")
_ROW_COLUMNS = (*_TEXT_COLUMNS, "image")


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One image as stored; `row` counts from 0 in the split's file order.

    `stored` is its number in the shards, which counts quarantined rows too.
    """

    row: int
    stored: int
    image_id: str
    file_name: str
    image: bytes
    captions: tuple[str, ...]
    shard: str
    decoding: Decoding  # of its image
    cached: CachedRow | None = None  # where its pixels are kept; `image` may be empty then

    def web_image(self) -> bytes:
        """Encode the image for a page, which shows what the model sees; often as it is stored."""
        return web_picture(self.image, f"{self.file_name} in shard {self.shard}", self.decoding)[0]


class SplitReader:
    """Random access to a split's row groups, numbered over all its shards.

    Files are opened when first needed and closed by `close` or the end of a `with` block. Not for
    use by several threads at once.
    Raises: DataError, on reading, for a shard that is missing, damaged or not the handle's.
    """

    def __init__(self, handle: SplitHandle) -> None:
        self._handle = handle
        self._groups = [
            (shard, group)
            for shard in range(len(handle.shards))
            for group in range(len(handle.shards[shard].row_groups))
        ]
        stored = [handle.shards[s].row_groups[g] for s, g in self._groups]
        starts = [0, *accumulate(stored)]
        self._kept = [  # the stored numbers of each group's rows
            [row for row in range(start, start + count) if row not in handle.without]
            for start, count in zip(starts, stored, strict=False)
        ]
        self._starts = starts
        self._shard_starts = [0, *accumulate(shard.rows for shard in handle.shards)]
        self.group_rows = [len(rows) for rows in self._kept]
        self._first_rows = [0, *accumulate(self.group_rows)]
        self._files: dict[int, pq.ParquetFile] = {}
        self._bounds: dict[int, BoundedParquet] = {}  # of the files on a local disk
        self._bounded: set[tuple[int, tuple[str, ...]]] = set()  # groups and columns looked at
        self._open = ExitStack()

    def __enter__(self) -> "SplitReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._files.clear()
        self._bounds.clear()
        self._open.close()

    def read_group(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Read one row group's columns, without quarantined rows."""
        shard, group = self._groups[index]
        asked = (index, tuple(columns))
        try:
            file = self._file(shard)
            if shard in self._bounds and asked not in self._bounded:
                self._bounds[shard].require_bounded([group], columns)
                self._bounded.add(asked)
            table = file.read_row_group(group, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"shard {self._handle.shards[shard].uri}: cannot be read ({error}): run "
                "`promptide prepare` again"
            ) from error
        kept = self._kept[index]
        if len(kept) < table.num_rows:
            table = table.take(pa.array([row - self._starts[index] for row in kept], pa.int64()))
        return table

    def decoding(self, index: int) -> Decoding:
        """How the images of a row group are decoded; tasks of different sources may differ."""
        shard, _ = self._groups[index]
        file = self._file(shard)
        try:
            return Decoding.of_metadata(file.schema_arrow.metadata)
        except DataError as error:
            raise DataError(
                f"shard {self._handle.shards[shard].uri}: {error}: run `promptide prepare` again"
            ) from error

    def values(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Go through all rows in file order: these columns' values as plain Python."""
        for group in range(len(self.group_rows)):
            yield from self.read_group(group, columns).to_pylist()

    def rows(
        self, numbers: Iterable[int], cache: PixelCache | None = None
    ) -> Generator[ShardRow, None, None]:
        """Go through the rows of these numbers, in the order given.

        The last row group is kept, so each is read once if numbers of a group are adjacent. Of one
        whose pixels are all in the `cache`, the encoded images are not read.
        """
        held, decoding = -1, PLAIN
        columns: dict[str, pa.ChunkedArray] = {}
        places: list[CachedRow | None] = []
        for number in numbers:
            group = self._group_of(number)
            if group != held:
                places = self._places(group, cache)
                kept = all(place is not None and place.there() for place in places)
                names = _TEXT_COLUMNS if kept else _ROW_COLUMNS
                table = self.read_group(group, names)
                columns, held = {name: table.column(name) for name in names}, group
                decoding = self.decoding(group)
            at = number - self._first_rows[group]
            yield ShardRow(
                number,
                self._kept[group][at],
                str(columns["image_id"][at].as_py()),
                columns["file_name"][at].as_py(),
                columns["image"][at].as_py() if "image" in columns else b"",
                tuple(columns["captions"][at].as_py()),
                self._handle.shards[self._groups[group][0]].uri,
                decoding,
                places[at],
            )

    def _places(self, group: int, cache: PixelCache | None) -> list[CachedRow | None]:
        """Where the pixels of a row group are kept."""
        index, _ = self._groups[group]
        shard, rows = self._handle.shards[index], self._kept[group]
        file = None if cache is None else cache.of(shard)
        if cache is None or file is None:
            return [None] * len(rows)
        start = self._shard_starts[index]
        return [CachedRow(cache, shard, file, row - start) for row in rows]

    def _group_of(self, number: int) -> int:
        if not 0 <= number < self._first_rows[-1]:
            raise DataError(
                f"task {self._handle.task!r}, split {self._handle.split!r}: there is no row "
                f"{number}, only {self._first_rows[-1]} rows"
            )
        return bisect_right(self._first_rows, number) - 1

    def _file(self, index: int) -> pq.ParquetFile:
        if index not in self._files:
            shard = self._handle.shards[index]
            filesystem, path = filesystem_of(shard.uri)
            stream = self._open.enter_context(filesystem.open_input_file(path))
            bounds = BoundedParquet(stream)
            groups = tuple(group.rows for group in bounds.row_groups)
            file = pq.ParquetFile(stream)
            if groups != shard.row_groups or file.schema_arrow not in SHARD_SCHEMAS:
                raise DataError(
                    f"shard {shard.uri}: its rows or columns are not those of the manifest: run "
                    "`promptide prepare` again"
                )
            self._files[index] = file
            if is_local(filesystem):  # elsewhere a request per page would cost more than the pages
                self._bounds[index] = bounds
        return self._files[index]
