"""Writing of Parquet files that appear only when they are complete, with a checksum."""

import hashlib
from contextlib import suppress
from io import RawIOBase
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from system.data.shards.images import PLAIN, Decoding
from system.data.shards.manifest import Shard
from system.data.shards.schema import SHARD_SCHEMA, SPANNED_SCHEMA, ImageRecord, records_to_table
from system.storage.data_directory import SETTING
from system.storage.files import WholeFile, filesystem_of, storage_errors
from system.uris import join


class TaskShardWriter:
    """Collects one task's records into row groups and row groups into Parquet files.

    Files are named `<folder>/<name>-00000.parquet` and so on, from number `first` on, and say how
    their images are decoded; `spanned` ones have the columns of expressions with spans or others.
    At most `row_group_rows` records are held.
    Raises: StorageError from every method but `abandon` if the place cannot be written.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        first: int,
        row_group_rows: int,
        shard_rows: int,
        decoding: Decoding = PLAIN,
        *,
        spanned: bool = False,
    ) -> None:
        self._folder, self._name, self._number = folder, name, first
        self._columns = SPANNED_SCHEMA if spanned else SHARD_SCHEMA
        self._schema = self._columns.with_metadata(decoding.metadata)
        self._row_group_rows = row_group_rows
        self._groups_per_shard = shard_rows // row_group_rows
        self._buffer: list[ImageRecord] = []
        self._file: _ShardFile | None = None

    def append(self, record: ImageRecord) -> Shard | None:
        """Take one record; return the file if that made one whole."""
        self._buffer.append(record)
        if len(self._buffer) == self._row_group_rows:
            self._flush()
            if self._file is not None and len(self._file.row_groups) == self._groups_per_shard:
                return self._finish_file(self._file)
        return None

    def close(self) -> tuple[Shard, ...]:
        """Write what is left and return its file, if anything is left."""
        if self._buffer:
            self._flush()
        return () if self._file is None else (self._finish_file(self._file),)

    def abandon(self) -> None:
        """Let go of an unfinished file."""
        if self._file is not None:
            self._file.abandon()

    def _flush(self) -> None:
        if self._file is None:
            uri = join(self._folder, f"{self._name}-{self._number:05d}.parquet")
            self._file = _ShardFile(uri, self._schema)
        self._file.append(records_to_table(self._buffer, self._columns))
        self._buffer = []

    def _finish_file(self, file: "_ShardFile") -> Shard:
        shard = file.close()
        self._file = None
        self._number += 1
        return shard


class _ShardFile:
    """One Parquet file, which is under its name only once it is whole."""

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self._uri = uri
        self.row_groups: list[int] = []
        with storage_errors(uri, "open for writing", SETTING):
            self._file = WholeFile(*filesystem_of(uri))
            self._sink = _HashingSink(self._file.stream)
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._sink, mode="w"),
                schema,
                compression="zstd",
                use_dictionary=["task"],  # of no use elsewhere, and it would copy each image
                write_statistics=["image_id"],
            )

    def append(self, table: pa.Table) -> None:
        with storage_errors(self._uri, "write", SETTING):
            self._writer.write_table(table, row_group_size=table.num_rows)
        self.row_groups.append(table.num_rows)

    def close(self) -> Shard:
        with storage_errors(self._uri, "finish", SETTING):
            self._writer.close()
            self._file.finish()
        groups = tuple(self.row_groups)
        return Shard(self._uri, sum(groups), groups, self._sink.digest.hexdigest())

    def abandon(self) -> None:
        # Whatever fails here is a consequence of the error that led here, which is the one to show.
        with suppress(OSError, ValueError, pa.ArrowException):
            self._writer.close()
        self._file.abandon()


class _HashingSink(RawIOBase):
    """Passes bytes on to a stream and takes their checksum on the way."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # pyarrow hands over bytes
        self.digest.update(data)
        self._stream.write(data)
        return len(data)
