"""Temporary files of a preparation: without a name, so none is left however it ends."""

import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock

import pyarrow as pa

from system.data.prepare.image_files import StoredImage
from system.data.shards.schema import (
    SPANNED_SCHEMA,
    ImageRecord,
    record_from_row,
    records_to_table,
)
from system.errors import StorageError

_CACHE_KB = 16_000


@contextmanager
def temporary_space() -> Iterator[None]:
    """Turn a failure to write or read temporary files inside the block into a StorageError."""
    try:
        yield
    except (sqlite3.OperationalError, pa.ArrowException, OSError) as error:
        raise StorageError(
            f"temporary files cannot be written ({error}): set TMPDIR to a folder with room, about "
            "as much as the annotation files take"
        ) from error


@contextmanager
def temporary_database() -> Iterator[sqlite3.Connection]:
    """Open an empty SQLite database on disk that is gone when the block ends.

    It takes a fixed amount of memory and neither locks nor logs, as nobody else can see it.
    """
    database = sqlite3.connect("", isolation_level=None)
    try:
        with temporary_space():
            database.execute("PRAGMA temp_store = FILE")
            database.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("BEGIN")  # or each row would be written by itself
        yield database
    finally:
        database.close()


_PLACE = ("path", "start", "length", "size")


@dataclass(frozen=True, slots=True)
class LocatedRecord:
    """A record without its image, where the image lies, and of how many bytes it is."""

    image: StoredImage
    record: ImageRecord
    size: int


class TemporaryRecords:
    """Batches of rows in a nameless temporary file, which ends with the process or this object.

    The file is an Arrow IPC file: `SPANNED_SCHEMA` less the image, the image's place and its size.
    """

    _schema = pa.schema(
        [field for field in SPANNED_SCHEMA if field.name != "image"]
        + [
            pa.field("path", pa.string(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("length", pa.int64()),
            pa.field("size", pa.int64(), nullable=False),
        ]
    )

    def __init__(self) -> None:
        with temporary_space():
            self._file = TemporaryFile(prefix="promptide-")  # noqa: SIM115  # see finalize
        weakref.finalize(self, self._file.close)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), self._schema)
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._lock = Lock()
        self.sizes: list[int] = []  # rows of each batch

    def write(self, rows: Sequence[LocatedRecord]) -> int:
        """Append a batch and return its number."""
        records = [row.record for row in rows]
        table = records_to_table(records, SPANNED_SCHEMA).drop_columns(["image"])
        places = [
            (str(row.image.path), row.image.start, row.image.length, row.size) for row in rows
        ]
        for field, values in zip(_PLACE, zip(*places, strict=True), strict=True):
            column = self._schema.field(field)
            table = table.append_column(column, pa.array(values, column.type))
        with temporary_space():
            self._writer.write_table(table, max_chunksize=len(rows))
        self.sizes.append(len(rows))
        return len(self.sizes) - 1

    def finish(self) -> None:
        """End writing; batches can be read from now on."""
        with temporary_space():
            self._writer.close()
        self._reader = pa.ipc.open_file(pa.PythonFile(self._file, "r"))

    def read(self, batch: int) -> list[LocatedRecord]:
        """Read one batch; several threads may."""
        assert self._reader is not None
        with self._lock:
            rows = self._reader.get_batch(batch).to_pylist()
        return [
            LocatedRecord(
                StoredImage(Path(row["path"]), row["start"], row["length"]),
                record_from_row({**row, "image": b""}),
                row["size"],
            )
            for row in rows
        ]

    def places(self, batch: int) -> list[tuple[str, int, int | None, int]]:
        """Read of one batch only path, start and length of each image and its size."""
        assert self._reader is not None
        with self._lock:
            columns = self._reader.get_batch(batch).select(_PLACE).to_pydict()
        return list(zip(*(columns[name] for name in _PLACE), strict=True))
