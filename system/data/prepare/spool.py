"""Temporary files that a preparation needs: nameless, so that none is left, however it ends."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

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
