"""Records of the task stream's journal: their bytes, and the files that hold one each."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from system.errors import BrokenStorageError
from system.storage.files import Folder, TakenStorageError
from system.storage.foreign_json import parse_json

_REMOVERS = 16  # an object store takes tens of ms for each


@dataclass(frozen=True)
class Record:
    """One entry of the journal; `at` is when it was written (UTC)."""

    sequence: int
    kind: str
    at: datetime
    payload: dict[str, Any]


class BrokenRecordError(Exception):
    """The bytes are not what was written; `offset` is where, 0 if only the checksum tells."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset

    def at(self, path: str) -> BrokenStorageError:
        """The error for the user, who knows the file by its path."""
        return BrokenStorageError(
            f"{path}: record is broken at byte {self.offset} ({self}); restore it or start under "
            "another run name"
        )


def encode(body: Mapping[str, Any]) -> bytes:
    """The bytes of {sequence, kind, at, payload}, with their checksum."""
    checksum = zlib.crc32(_compact(body))
    return _compact({**body, "crc32": checksum})


def decode(sequence: int, content: bytes) -> Record:
    """The record of that number. Raises `BrokenRecordError` unless all bytes are as written."""
    try:
        body = parse_json(content.decode("ascii"))
    except UnicodeDecodeError as error:
        raise BrokenRecordError("not text", error.start) from error
    except json.JSONDecodeError as error:
        raise BrokenRecordError(f"not JSON: {error.msg}", error.pos) from error
    except ValueError as error:
        raise BrokenRecordError(str(error), 0) from error
    if not isinstance(body, dict) or body.get("sequence") != sequence:
        raise BrokenRecordError(f"not record {sequence}", 0)
    # Comparing the bytes, not the values, also sees a change that JSON reads as the same value.
    unsigned = {key: value for key, value in body.items() if key != "crc32"}
    if content != encode(unsigned):
        raise BrokenRecordError("checksum differs", 0)
    at = datetime.fromisoformat(body["at"])
    return Record(sequence, body["kind"], at, body["payload"])


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


class RecordFiles:
    """A folder to which one process adds files, each new, whole and after the one before.

    Raises StorageError naming the file when storage fails.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._leftovers: set[str] = set()

    def path(self, name: str) -> str:
        """Where file `name` lies, for messages."""
        return f"{self.folder.location}/{name}"

    def names(self) -> set[str]:
        """The names of the files."""
        return set(self.folder.names())

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return self.folder.read(name)

    def discard_before_next_write(self, *names: str) -> None:
        """Have files that nobody needs removed before anything else is written."""
        self._leftovers.update(names)

    def write(self, name: str, content: bytes, after: str | None = None) -> None:
        """Write a new file; when this returns, it is on storage.

        Raises TakenStorageError when another process has written the file already, or removed the
        one that it comes `after`.
        """
        with ThreadPoolExecutor(_REMOVERS) as removers:
            list(removers.map(self.folder.delete, self._leftovers))
        self._leftovers.clear()
        if after is not None and not self.folder.exists(after):
            raise TakenStorageError.at(self.path(name))
        # A write that fails may have left the file behind, say when only its sync failed: then it
        # was not acknowledged, and must not be met by a later reader.
        self._leftovers.add(name)
        try:
            self.folder.write(name, content, new=True)
        except TakenStorageError:
            self._leftovers.discard(name)  # it is another process's
            raise
        self._leftovers.discard(name)
