"""One record of the task stream's journal, and its bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from system.errors import BrokenStorageError


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
        body = json.loads(content.decode("ascii"))
    except UnicodeDecodeError as error:
        raise BrokenRecordError("not text", error.start) from error
    except json.JSONDecodeError as error:
        raise BrokenRecordError(f"not JSON: {error.msg}", error.pos) from error
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
